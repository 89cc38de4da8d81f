"""`python -m cfgen_dist.config > docs/settings.md` writes the settings page of the documentation."""

import sys

from cfgen_dist.config.page import settings_page

sys.stdout.write(settings_page())
