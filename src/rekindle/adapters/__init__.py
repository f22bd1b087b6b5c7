"""One framework each: live objects to component state and back, in place."""
