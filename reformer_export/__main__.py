"""The program `reformer-export`, also as `python -m reformer_export`."""

from __future__ import annotations

from reformer_export.cli.interrupts import end_quietly, leave_interrupted, leaving_at_interrupt


def main() -> None:
    """Run the command line; Ctrl-C ends it in one line from the first moment to the last."""
    with leaving_at_interrupt():
        from reformer_export.cli.main import main as run
    try:
        run()
    except KeyboardInterrupt:  # a second one, while the first was heard
        leave_interrupted()
    finally:
        end_quietly()


if __name__ == "__main__":
    main()
