"""`python -m lorat_plugin` is `lorat`."""

from lorat_plugin.cli.main import main

if __name__ == "__main__":
    main()
