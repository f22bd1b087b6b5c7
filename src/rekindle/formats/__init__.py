"""One foreign layout each: sniff, read, and write where the real library loads the result."""
