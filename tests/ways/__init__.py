"""The files of wingsd that each of ten things passes through: `make ways`."""
