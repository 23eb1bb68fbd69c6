"""A configuration as flags of the command line."""


def flags(prefix: str, values: dict, defaults: dict) -> list[str]:
    """Command-line flags of the fields that are not at their defaults."""
    found = []
    for name, value in values.items():
        flag = prefix + name.replace("_", "-")
        if isinstance(value, dict):
            found += flags(f"{flag}.", value, defaults[name])
        elif value != defaults[name] and name not in ("height", "width", "data_dir"):
            if isinstance(value, bool):
                head, _, last = flag.rpartition(".")
                found.append(f"--{head}{'.' if head else ''}{'' if value else 'no-'}{last}")
            else:
                found.append(f"--{flag} {' '.join(map(str, value)) if isinstance(value, list) else value}")
    return found
