"""``python -m xmdpt_cli``."""

from xmdpt_cli.app import main

if __name__ == "__main__":
    main()
