"""`python -m reformer_export`, as `reformer-export`."""

from __future__ import annotations

from reformer_export.cli.main import main

if __name__ == "__main__":
    main()
