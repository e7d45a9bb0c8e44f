import sys

from snnfast.cli import main

sys.exit(main())
