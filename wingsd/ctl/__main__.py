"""`python -m wingsd.ctl`: the same as `wingsctl`, where that is not installed."""

from wingsd.ctl.main import main

if __name__ == "__main__":
    main(prog_name="wingsctl")
