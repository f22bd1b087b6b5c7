"""Functions that run code or write when a pickle calls them, and ways round to reach one.

Sources: the advisories of picklescan and fickling up to 2026, and CPython's library. Each leaves
something named PWNED where it runs, and does no other harm.
"""

from __future__ import annotations

import marshal
from typing import Any

from tests.hostile.assembly import Call, Name, assemble, call, name

SHELL = "echo x > PWNED"
PYTHON = "open('PWNED', 'w').close()"
MODULE = f"{PYTHON}\n"
"""Text of the module `evil` that lies beside each case: importing it is an execution too."""
SYSTEM = Name("os", "system")
OS_SYSTEM = call("os:system", SHELL)
MAPPED = call("builtins:map", SYSTEM, [SHELL])
"""An iterator that runs a command when something takes an item from it."""
CODE = marshal.dumps(compile(PYTHON, "evil", "exec"))

FUNCTIONS: list[tuple[str, tuple[Any, ...]]] = [
    # Shells and processes.
    ("os:system", (SHELL,)), ("posix:system", (SHELL,)), ("os:popen", (SHELL,)),
    ("subprocess:getoutput", (SHELL,)), ("commands:getoutput", (SHELL,)),
    ("subprocess:getstatusoutput", (SHELL,)),
    ("subprocess:run", (["sh", "-c", SHELL],)), ("subprocess:call", (["sh", "-c", SHELL],)),
    ("subprocess:check_call", (["sh", "-c", SHELL],)),
    ("subprocess:check_output", (["sh", "-c", SHELL],)),
    ("subprocess:Popen", (["sh", "-c", SHELL],)), ("pty:spawn", (["sh", "-c", SHELL],)),
    ("os:posix_spawn", ("/bin/sh", ["sh", "-c", SHELL], {})),
    ("os:spawnl", (0, "/bin/sh", "sh", "-c", SHELL)),
    ("os:spawnv", (0, "/bin/sh", ["sh", "-c", SHELL])),
    ("os:execv", ("/bin/sh", ["sh", "-c", SHELL])), ("os:execl", ("/bin/sh", "sh", "-c", SHELL)),
    ("multiprocessing.util:spawnv_passfds", (b"/bin/sh", ["sh", "-c", SHELL], [])),
    ("uuid:_get_command_stdout", ("touch", "PWNED")),
    ("pydoc:pipepager", ("x", "cat > PWNED")),
    ("pydoc:tempfilepager", ("x", "echo x > PWNED; cat")),
    ("imaplib:IMAP4_stream", (f"sh -c '{SHELL}'",)),
    ("torch.utils.collect_env:run", (SHELL,)), ("_osx_support:_read_output", (SHELL,)),
    # Source text.
    ("builtins:exec", (PYTHON,)), ("builtins:eval", (PYTHON,)), ("__builtin__:eval", (PYTHON,)),
    ("timeit:timeit", ("pass", PYTHON)), ("timeit:repeat", ("pass", PYTHON)),
    ("timeit:main", (["-n", "1", "-r", "1", PYTHON],)), ("cProfile:run", (PYTHON,)),
    ("cProfile:runctx", (PYTHON, {}, {})), ("profile:run", (PYTHON,)),
    ("profile:runctx", (PYTHON, {}, {})),
    ("numpy.f2py.crackfortran:myeval", (PYTHON,)),
    ("numpy.f2py.crackfortran:_eval_scalar", (PYTHON, {})),
    ("numpy.f2py.crackfortran:param_eval", (PYTHON, {}, {})),
    ("numpy.f2py.crackfortran:getlincoef", (PYTHON, {})),
    ("numpy.testing._private.utils:runstring", (PYTHON, {})), ("numpy.testing:measure", (PYTHON,)),
    ("torch.jit.unsupported_tensor_ops:execWrapper", (PYTHON, {}, {})),
    ("test.support.script_helper:assert_python_ok", ("-c", PYTHON)),
    # Imports of what lies beside.
    ("runpy:run_path", ("evil.py",)), ("runpy:run_module", ("evil",)),
    ("importlib:import_module", ("evil",)), ("builtins:__import__", ("evil",)),
    ("pkgutil:resolve_name", ("evil",)), ("pydoc:locate", ("evil",)),
    ("pydoc:safeimport", ("evil",)), ("importlib.util:find_spec", ("evil.x",)),
    ("unittest:main", ("evil",)),
    # Writing.
    ("builtins:open", ("PWNED", "w")), ("io:open", ("PWNED", "w")), ("_io:open", ("PWNED", "w")),
    ("_io:FileIO", ("PWNED", "w")), ("codecs:open", ("PWNED", "w")), ("os:open", ("PWNED", 65)),
    ("os:mkdir", ("PWNED",)), ("os:makedirs", ("PWNED",)), ("os:mknod", ("PWNED",)),
    ("os:symlink", ("/etc/passwd", "PWNED")), ("gzip:open", ("PWNED", "w")),
    ("bz2:open", ("PWNED", "w")), ("lzma:open", ("PWNED", "w")),
    ("zipfile:ZipFile", ("PWNED", "w")), ("tarfile:open", ("PWNED", "w")),
    ("sqlite3:connect", ("PWNED",)), ("dbm.dumb:open", ("PWNED", "n")),
    ("logging:FileHandler", ("PWNED",)), ("shutil:copyfile", ("/etc/passwd", "PWNED")),
    ("tempfile:mkdtemp", ("PWNED", None, ".")),
    ("urllib.request:urlretrieve", ("file:///etc/passwd", "PWNED")),
    ("py_compile:compile", ("evil.py", "PWNED")), ("venv:create", ("PWNED",)),
    ("numpy:memmap", ("PWNED", "uint8", "w+", 0, (1,))), ("numpy:savetxt", ("PWNED", [1])),
    ("numpy:save", ("PWNED.npy", [1])), ("torch:save", (1, "PWNED")),
]  # fmt: skip
"""Functions that run code, or write, when they are called; most were on no blocklist once."""

ELSEWHERE: list[tuple[str, tuple[Any, ...]]] = [
    ("nt:system", (SHELL,)), ("os:popen2", (SHELL,)),
    ("__builtin__:apply", (Name("os", "system"), (SHELL,))), ("popen2:popen3", (SHELL,)),
    ("torch.utils.bottleneck.__main__:run_cprofile", (PYTHON, {})),
    ("torch._inductor.codecache:compile_file", ("x", "PWNED", ["sh", "-c", SHELL])),
    ("torch.hub:load", (".", "evil")), ("joblib:load", ("evil.pkl",)),
    ("ctypes:CDLL", ("./libevil.so",)), ("ensurepip:_run_pip", (["--version"],)),
    ("lib2to3.pgen2.grammar:Grammar.loads", (b"",)), ("idlelib.run:Executive.runcode", (PYTHON,)),
    ("_pyrepl.pager:pipe_pager", ("x", "cat > PWNED")), ("webbrowser:open", ("file:///x",)),
    ("socket:create_connection", (("127.0.0.1", 9),)), ("smtplib:SMTP", ("127.0.0.1", 9)),
    ("urllib.request:urlopen", ("http://127.0.0.1:9",)),
    ("http.client:HTTPSConnection", ("127.0.0.1",)), ("telnetlib:Telnet", ("127.0.0.1", 9)),
]  # fmt: skip
"""The same for another system, another version, or with a network."""


def method(owner: Any, attribute: str, *arguments: Any) -> Call:
    """A call of a method of something that was made before."""
    return Call(call("builtins:getattr", owner, attribute), arguments)


def _imported(module: str) -> Call:
    return call("builtins:__import__", module)


WAYS_ROUND: dict[str, Any] = {
    "getattr of an import": method(_imported("os"), "system", SHELL),
    "dotted name": call("subprocess:os.system", SHELL),
    "dotted name of another module": call("shutil:os.system", SHELL),
    "attrgetter": Call(Call(call("operator:attrgetter", "system"), (_imported("os"),)), (SHELL,)),
    "methodcaller": Call(call("operator:methodcaller", "system", SHELL), (_imported("os"),)),
    "itemgetter": Call(Call(call("operator:itemgetter", "system"), (name("os:__dict__"),)),
                       (SHELL,)),
    "resolve_name": Call(call("pkgutil:resolve_name", "os:system"), (SHELL,)),
    "partial": Call(call("functools:partial", SYSTEM, SHELL)),
    "partial by its state": Call(
        Call(name("functools:partial"), (name("builtins:print"),), (SYSTEM, (SHELL,), {}, None))
    ),
    "reduce": call("functools:reduce", call("operator:methodcaller", "__class__"), [SHELL]),
    "list of a map": call("builtins:list", MAPPED),
    "max of a map": call("builtins:max", MAPPED),
    "Counter of a map": call("collections:Counter", MAPPED),
    "deque of a map": call("collections:deque", MAPPED),
    "set of a map": call("builtins:set", MAPPED),
    "frozenset of a map": call("builtins:frozenset", MAPPED),
    "dict of a map": call("builtins:dict", MAPPED),
    "bytes of a map": call("builtins:bytes", MAPPED),
    "bytearray of a map": call("builtins:bytearray", MAPPED),
    "OrderedDict of a map": call("collections:OrderedDict", MAPPED),
    "tuple of a filter": call("builtins:tuple", call("builtins:filter", SYSTEM, [SHELL])),
    "list of a starmap": call("builtins:list", call("itertools:starmap", SYSTEM, [(SHELL,)])),
    "slice assignment of a map": call("operator:setitem", [], call("builtins:slice", None), MAPPED),
    "interpreter": method(call("code:InteractiveInterpreter"), "runsource", PYTHON),
    "trace": method(call("trace:Trace"), "run", PYTHON),
    "debugger": method(call("bdb:Bdb"), "run", PYTHON),
    "profiler": method(call("cProfile:Profile"), "run", PYTHON),
    "path touched": call("pathlib:Path.touch", call("pathlib:Path", "PWNED")),
    "path written": call("pathlib:Path.write_text", call("pathlib:Path", "PWNED"), "x"),
    "at exit": call("atexit:register", SYSTEM, SHELL),
    "finaliser": call("weakref:finalize", call("collections:UserDict"), SYSTEM, SHELL),
    "pickle in a pickle": call("pickle:loads", assemble(OS_SYSTEM)),
    "pickle in a pickle in C": call("_pickle:loads", assemble(OS_SYSTEM)),
    "cloudpickle in a pickle": call("cloudpickle:loads", assemble(OS_SYSTEM)),
    "code object": Call(
        call("types:FunctionType", call("marshal:loads", CODE),
             {"open": name("builtins:open")})
    ),
    "cloudpickled function": Call(
        call("cloudpickle.cloudpickle:_make_function", call("marshal:loads", CODE), {}, "f", None,
             None)
    ),
    "default factory": call(
        "operator:getitem",
        call("collections:defaultdict", call("functools:partial", SYSTEM, SHELL)), "x",
    ),
    "thread": method(call("threading:Thread", None, SYSTEM, None, (SHELL,)), "start"),
    "pool": method(
        call("concurrent.futures:ThreadPoolExecutor", 1), "submit", SYSTEM, SHELL
    ),
    "template": call("string:Template.substitute", call("string:Template", "$x"),
                     call("collections:defaultdict", call("functools:partial", SYSTEM, SHELL))),
    "sum with a start of its own": call("functools:reduce", SYSTEM, [], None),
    "iter with a sentinel": call(
        "builtins:next", call("builtins:iter", call("functools:partial", SYSTEM, SHELL), 7)
    ),
    "sorted by a key": method([SHELL, SHELL], "sort"),
    "min by a key": Call(call("functools:partial", name("builtins:exec"), PYTHON)),
    "class made by type": Call(
        call("builtins:type", "C", (), {"__call__": call("functools:partial", SYSTEM, SHELL)})
    ),
}  # fmt: skip
"""Calls that end at a function by a way that a list of forbidden names does not see."""

NOT_LIVE = frozenset(("reduce", "sum with a start of its own", "sorted by a key",
                      "class made by type"))  # fmt: skip
"""Those of them that fail before they run anything."""
