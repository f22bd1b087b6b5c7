"""The ways back of `rekindle.match`: one module for each kind of value, over one engine."""
