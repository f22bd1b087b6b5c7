"""The matrix behind `make exactness`: every case is trained, killed, resumed and compared."""
