"""`python -m services.cli`: the command `shiori` where only the source tree is installed."""

from services.cli.main import app

if __name__ == "__main__":
    app(prog_name="shiori")
