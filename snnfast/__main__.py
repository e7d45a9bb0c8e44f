import sys

from snnfast.cli.main import main

sys.exit(main())
