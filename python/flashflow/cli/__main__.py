"""python -m flashflow.cli VERB ..."""

from flashflow.cli.app import main

if __name__ == "__main__":
    main()
