"""`python -m polyseme` is `polyseme`."""

from polyseme.cli import main

raise SystemExit(main())
