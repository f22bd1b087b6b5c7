"""One kind of value to bytes or JSON and back: `encode` and `decode`."""
