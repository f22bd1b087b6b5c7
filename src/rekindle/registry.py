"""Which module handles which kind of thing, as dotted names, so that nothing is imported early.

A class is looked up by the names of the classes it derives from. The adapter's module is imported
on first use, when the framework is loaded already: an object of it exists.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from rekindle.errors import MissingDependencyError

ADAPTERS: dict[str, str] = {
    # Written as: class of the live object -> module:attribute of its adapter.
    "torch.Tensor": "rekindle.adapters.torch_values:TENSOR",
    "torch.dtype": "rekindle.adapters.torch_values:DTYPE",
    "torch.device": "rekindle.adapters.torch_values:DEVICE",
    "torch.Size": "rekindle.adapters.torch_values:SIZE",
    "torch._C.Generator": "rekindle.adapters.torch_values:GENERATOR",
    "torch.distributions.distribution.Distribution": "rekindle.adapters.torch_values:DISTRIBUTION",
    "torch.nn.modules.module.Module": "rekindle.adapters.torch_module:MODULE",
    "torch.jit._script.ScriptModule": "rekindle.adapters.torch_script:SCRIPT",
    "torch.optim.optimizer.Optimizer": "rekindle.adapters.torch_optim:OPTIMIZER",
    "torch.amp.grad_scaler.GradScaler": "rekindle.adapters.torch_optim:SCALER",
    "torch.utils.data.dataloader.DataLoader": "rekindle.adapters.torch_data:LOADER",
    "torch.utils.data.dataloader._BaseDataLoaderIter": "rekindle.adapters.torch_data:ITERATOR",
    "jax.jaxlib._jax.Array": "rekindle.adapters.jax_values:ARRAY",
    "jax.Array": "rekindle.adapters.jax_values:ARRAY",
    "jax._src.core.Tracer": "rekindle.adapters.jax_values:ARRAY",
    "jaxlib._jax.PjitFunction": "rekindle.adapters.jax_values:FUNCTION",
    "jaxlib.xla_extension.PjitFunction": "rekindle.adapters.jax_values:FUNCTION",
    "jax._src.custom_derivatives.custom_jvp": "rekindle.adapters.jax_values:FUNCTION",
    "jax._src.custom_derivatives.custom_vjp": "rekindle.adapters.jax_values:FUNCTION",
    "jax.numpy.ufunc": "rekindle.adapters.jax_values:FUNCTION",
    "equinox._jit._JitWrapper": "rekindle.adapters.jax_values:FUNCTION",
    "optax._src.base.GradientTransformation": "rekindle.adapters.jax_values:TRANSFORMATION",
    "flax.nnx.variablelib.Variable": "rekindle.adapters.jax_values:VARIABLE",
    "flax.linen.module.Module": "rekindle.adapters.jax_values:LINEN",
    "equinox._module._module.Module": "rekindle.adapters.equinox:MODULE",
    "equinox._module.Module": "rekindle.adapters.equinox:MODULE",
    "equinox.nn._stateful.State": "rekindle.adapters.equinox:STATE",
    "jaxlib._jax.Device": "rekindle.adapters.external:EXTERNAL",
    "jaxlib._jax.Sharding": "rekindle.adapters.external:EXTERNAL",
    "jaxlib._jax.pytree.PyTreeDef": "rekindle.adapters.external:EXTERNAL",
    "jax._src.mesh.BaseMesh": "rekindle.adapters.external:EXTERNAL",
    "jax._src.dtypes.ExtendedDType": "rekindle.adapters.external:EXTERNAL",
    "jax._src.stages.Stage": "rekindle.adapters.external:EXTERNAL",
    "jax._src.core.OpaqueTraceState": "rekindle.adapters.external:EXTERNAL",
    "random.Random": "rekindle.adapters.generators:PYTHON",
    "numpy.random._generator.Generator": "rekindle.adapters.generators:NUMPY_GENERATOR",
    "numpy.random.bit_generator.BitGenerator": "rekindle.adapters.generators:NUMPY_BITS",
    "numpy.random.mtrand.RandomState": "rekindle.adapters.generators:NUMPY_LEGACY",
    "numpy.random.bit_generator.SeedSequence": "rekindle.adapters.generators:SEED_SEQUENCE",
    "rekindle.adapters.generators.GlobalRNG": "rekindle.adapters.generators:GLOBAL",
    "rekindle.rings.RingBuffer": "rekindle.adapters.ring:BUFFER",
    "tensordict._td.TensorDict": "rekindle.adapters.tensordict:DICTIONARY",
    "torchrl.data.replay_buffers.replay_buffers.ReplayBuffer": "rekindle.adapters.torchrl:BUFFER",
    "torchrl.data.replay_buffers.replay_buffers.ReplayBufferEnsemble": (
        "rekindle.adapters.torchrl:REFUSED"
    ),
    "torchrl.data.replay_buffers.storages.Storage": "rekindle.adapters.torchrl:REFUSED",
    "torchrl.data.replay_buffers.storages.TensorStorage": "rekindle.adapters.torchrl:STORAGE",
    "torchrl.data.replay_buffers.storages.ListStorage": "rekindle.adapters.torchrl:ITEMS",
    "torchrl.data.replay_buffers.storages.CompressedListStorage": (
        "rekindle.adapters.torchrl:REFUSED"
    ),
    "torchrl.data.replay_buffers.writers.Writer": "rekindle.adapters.torchrl:WRITER",
    "torchrl.data.replay_buffers.samplers.Sampler": "rekindle.adapters.torchrl:SAMPLER",
    "torchrl.data.replay_buffers.samplers.PrioritizedSampler": (
        "rekindle.adapters.torchrl:PRIORITIZED"
    ),
    "rekindle.environments.Stateful": "rekindle.adapters.declared:STATE",
    "gymnasium.spaces.space.Space": "rekindle.adapters.gymnasium:SPACE",
    "gymnasium.wrappers.common.RecordEpisodeStatistics": "rekindle.adapters.gymnasium:STATISTICS",
    "gymnasium.wrappers.vector.common.RecordEpisodeStatistics": (
        "rekindle.adapters.gymnasium:STATISTICS"
    ),
    "gymnasium.envs.registration.EnvSpec": "rekindle.adapters.gymnasium:SPEC",
    "gymnasium.vector.sync_vector_env.SyncVectorEnv": "rekindle.adapters.gymnasium:SYNC",
    "mujoco._structs.MjData": "rekindle.adapters.mujoco:DATA",
    "mujoco._structs.MjModel": "rekindle.adapters.mujoco:MODEL",
    "mujoco._structs.MjvScene": "rekindle.adapters.external:EXTERNAL",
    "mujoco._structs.MjvCamera": "rekindle.adapters.external:EXTERNAL",
    "mujoco._structs.MjvOption": "rekindle.adapters.external:EXTERNAL",
    "mujoco._structs.MjvPerturb": "rekindle.adapters.external:EXTERNAL",
    "mujoco._render.MjrContext": "rekindle.adapters.external:EXTERNAL",
    "mujoco.renderer.Renderer": "rekindle.adapters.external:EXTERNAL",
    "gymnasium.envs.mujoco.mujoco_rendering.MujocoRenderer": (
        "rekindle.adapters.external:EXTERNAL"
    ),
    "gymnasium.envs.mujoco.mujoco_rendering.BaseRender": "rekindle.adapters.external:EXTERNAL",
    "ale_py.env.AtariEnv": "rekindle.adapters.ale:ENVIRONMENT",
    "ale_py._ale_py.ALEInterface": "rekindle.adapters.ale:INTERFACE",
    "ale_py._ale_py.ALEVectorInterface": "rekindle.adapters.ale:VECTOR",
    "minigrid.core.roomgrid.Room": "rekindle.adapters.minigrid:OBJECT",
    "minigrid.core.world_object.WorldObj": "rekindle.adapters.minigrid:OBJECT",
    "minigrid.envs.babyai.core.verifier.Instr": "rekindle.adapters.minigrid:OBJECT",
    "minigrid.envs.babyai.core.verifier.ObjDesc": "rekindle.adapters.minigrid:OBJECT",
    "gymnasium.envs.box2d.lunar_lander.LunarLander": "rekindle.adapters.box2d:LANDER",
    "gymnasium.envs.box2d.bipedal_walker.BipedalWalker": "rekindle.adapters.box2d:REFUSED",
    "gymnasium.envs.box2d.car_racing.CarRacing": "rekindle.adapters.box2d:REFUSED",
    "Box2D.Box2D.b2World": "rekindle.adapters.box2d:REFUSED",
    "Box2D.Box2D.b2Body": "rekindle.adapters.box2d:REFUSED",
    "Box2D.Box2D.b2Fixture": "rekindle.adapters.box2d:REFUSED",
    "Box2D.Box2D.b2Joint": "rekindle.adapters.box2d:REFUSED",
    "Box2D.Box2D.b2ContactListener": "rekindle.adapters.box2d:REFUSED",
    "stable_baselines3.common.vec_env.subproc_vec_env.SubprocVecEnv": (
        "rekindle.adapters.workers:SUBPROC"
    ),
    "gymnasium.vector.async_vector_env.AsyncVectorEnv": "rekindle.adapters.workers:ASYNC",
    "stable_baselines3.common.base_class.BaseAlgorithm": "rekindle.adapters.sb3:ALGORITHM",
    "stable_baselines3.common.policies.BaseModel": "rekindle.adapters.sb3_policy:POLICY",
    "stable_baselines3.common.logger.Logger": "rekindle.adapters.sb3:LOGGER",
    "stable_baselines3.common.buffers.BaseBuffer": "rekindle.adapters.sb3:BUFFER",
    "stable_baselines3.common.buffers.ReplayBuffer": "rekindle.adapters.sb3:REPLAY",
    "stable_baselines3.common.buffers.RolloutBuffer": "rekindle.adapters.sb3:ROLLOUT",
    "stable_baselines3.common.vec_env.base_vec_env.VecEnv": "rekindle.adapters.sb3:VEC_ENV",
    "stable_baselines3.common.monitor.Monitor": "rekindle.adapters.sb3:MONITOR",
    "rekindle.sb3.Checkpoint": "rekindle.adapters.sb3:OWN_CALLBACK",
    "rekindle.sb3_training.Teller": "rekindle.adapters.sb3:OWN_CALLBACK",
    "stable_baselines3.common.callbacks.ProgressBarCallback": "rekindle.adapters.external:EXTERNAL",
    "stable_baselines3.common.callbacks.BaseCallback": "rekindle.adapters.sb3:CALLBACK",
    "stable_baselines3.common.monitor.ResultsWriter": "rekindle.adapters.external:EXTERNAL",
    "velora.buffer.base.BufferBase": "rekindle.adapters.velora:BUFFER",
    "logging.Logger": "rekindle.adapters.external:EXTERNAL",
    "logging.LoggerAdapter": "rekindle.adapters.external:EXTERNAL",
    "_thread.lock": "rekindle.adapters.external:LOCK",
    "_thread.RLock": "rekindle.adapters.external:LOCK",
    "pygame.surface.Surface": "rekindle.adapters.external:EXTERNAL",
    "pygame.time.Clock": "rekindle.adapters.external:EXTERNAL",
    "functools._lru_cache_wrapper": "rekindle.adapters.external:EXTERNAL",
    "weakref.ReferenceType": "rekindle.adapters.external:EXTERNAL",
    "_io._IOBase": "rekindle.adapters.external:STREAM",
}


FORMATS: dict[str, str] = {
    # Written as: name of the format -> module:attribute of it.
    "sb3.model": "rekindle.formats.sb3_model:FORMAT",
    "sb3.folder": "rekindle.formats.sb3_folder:FORMAT",
    "sb3.policy": "rekindle.formats.sb3_parts:POLICY",
    "sb3.replay_buffer": "rekindle.formats.sb3_parts:REPLAY_BUFFER",
    "sb3.normalizer": "rekindle.formats.sb3_parts:NORMALIZER",
    "equinox": "rekindle.formats.equinox_leaves:EQUINOX",
    "lerax": "rekindle.formats.equinox_leaves:LERAX",
    "metta.checkpoint": "rekindle.formats.metta_checkpoint:FORMAT",
    "metta.trainer_state": "rekindle.formats.metta_trainer:FORMAT",
    "metta.bundle": "rekindle.formats.metta_bundle:FORMAT",
    "velora": "rekindle.formats.velora:FORMAT",
    "cogym": "rekindle.formats.cogym:FORMAT",
    "torch": "rekindle.formats.torch_checkpoint:FORMAT",
    "safetensors": "rekindle.formats.safetensors_file:FORMAT",
    "numpy": "rekindle.formats.numpy_file:FORMAT",
}
"""Formats of other libraries, read by `rekindle.formats.recognition`."""


def label(cls: type) -> str:
    """The name under which a class is compared: `module:qualified name`."""
    return f"{cls.__module__}:{cls.__qualname__}"


@cache
def adapter_for(cls: type) -> Any | None:
    """The adapter of a class, found by the names in its method resolution order, or None.

    A class that declares its own state (`rekindle_state = True`) comes before all others.
    """
    if getattr(cls, "rekindle_state", False) is True:
        return load(ADAPTERS["rekindle.environments.Stateful"])
    for base in cls.__mro__:
        target = ADAPTERS.get(f"{base.__module__}.{base.__qualname__}")
        if target is not None:
            return load(target)
    return None


def load(target: str) -> Any:
    """Import `module:attribute` and return the attribute."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


@cache
def adapter_named(name: str) -> Any | None:
    """The adapter that wrote a node, found by the name in the file among those known here.

    Only modules of this package are imported for it; the file chooses among them, no more.
    """
    prefix = name.partition(".")[0]
    for target in ADAPTERS.values():
        module = target.partition(":")[0].rpartition(".")[2]
        if module.partition("_")[0] != prefix:
            continue
        try:
            adapter = load(target)
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"{name}: expected the package {error.name!r}, which this part of the checkpoint "
                "was written with, found none. Install it."
            ) from error
        if adapter.name == name:
            return adapter
    return None
