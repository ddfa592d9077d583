"""`python -m speech_rba.config OVERLAY` writes the values of an overlay into params.yaml."""

import sys
from pathlib import Path

from speech_rba.config import apply_overlay
from speech_rba.errors import UserError

try:
    apply_overlay(Path(sys.argv[1]))
except UserError as error:
    sys.exit(f"error: {error}")
