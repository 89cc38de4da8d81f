"""The page of the documentation that lists every key, written from the config's own definition."""

from cfgen_dist.config.load import presets
from cfgen_dist.config.settings import value_text
from cfgen_dist.config.tree import groups, settings

HEAD = """# Settings

<!-- Written by `python -m cfgen_dist.config > docs/settings.md`. Change cfgen_dist/config/tree.py, not this page. -->

Every key can stand in the YAML file that `cfgen-dist train --config FILE` reads, be given on the command line
(`--flow.batch_size 512`, lists as `--autoencoder.hidden 512,256`), or be passed to Python
(`load_config(overrides={"flow.batch_size": 512})`). What is left out keeps its default, so a file holds only what it
changes:

```yaml
seed: 3
flow:
  batch_size: 512
```

An unknown key, a value of another type or one outside its range is refused before anything starts.

"""


def settings_page() -> str:
    """The page as Markdown."""
    names = ", ".join(f"`{name}`" for name in presets())
    parts = [HEAD, f"Presets come with the package, for `--config`:\n{names}.\n"]
    for group, about in ({"": "These keys belong to no group: they stand at the top of the file."} | groups()).items():
        rows = [setting for setting in settings().values() if setting.group == group]
        title = f"`{group}`" if group else "The whole training"
        parts.append(f"\n## {title}\n\n{about}\n\n| key | meaning | value | default |\n|---|---|---|---|\n")
        parts += [f"| `{row.key}` | {row.meaning} | {row.allowed} | `{value_text(row.default)}` |\n" for row in rows]
    return "".join(parts)
