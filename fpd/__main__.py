"""`python -m fpd` is `fpd`."""

from fpd.cli import main

if __name__ == "__main__":
    main(prog_name="fpd")
