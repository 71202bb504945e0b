"""The program `crishim`."""

import gc
import os
import sys


def main() -> None:
    """Run the command line, or say which extra brings it."""
    # gRPC accepts connections by its older loop: a third less CPU a call. Read when it is imported; unknown names do no harm.
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
    gc.disable()  # what is imported stays, and looking for garbage in it again and again takes a tenth of a start
    try:
        from crishim.cli.main import main as command_line
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"click", "rich", "yaml"}:
            raise
        sys.exit(f"crishim: the command line needs {error.name}: pip install 'crishim[cli]'")
    gc.freeze()
    gc.enable()
    command_line(prog_name="crishim")


if __name__ == "__main__":
    main()
