"""`python -m wingsd.cli`: the same as `wingsctl`, where that is not installed."""

from wingsd.cli.main import main

if __name__ == "__main__":
    main(prog_name="wingsctl")
