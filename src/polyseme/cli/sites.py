"""`polyseme sites`: the sites of a network, with their widths."""

import sys

from polyseme.cli.flags import Group
from polyseme.cli.line import Line
from polyseme.core.config import Config
from polyseme.core.errors import InputError


class SitesOptions(Config):
    """What is listed."""

    modules: bool = False
    """List every module path instead of the named sites."""
    download: bool = False
    """Fetch a hub name that is not on this machine."""


def sites(line: Line) -> int:
    """List the names that a study takes, each with the width of its vectors."""
    (options,) = line.configs(Group(SitesOptions))
    from polyseme.networks import load_network
    from polyseme.networks.survey import NOT_FINITE_FIX

    network = load_network(line.first, download=options.download)
    names = network.site_names(modules=options.modules)
    if options.modules:
        print(*names, sep="\n")
        return 0
    if names:
        found = network.survey(names)
        broken = [name for name in names if not found[network.site(name)].finite]
        if broken:
            some = f"the vectors of {len(broken)} of the network's {len(names)} sites are not finite"
            raise InputError(f"{some}, {broken[0]} for one", where=line.first, fix=NOT_FINITE_FIX)
        widths = {name: found[network.site(name)].width(network.site(name)) for name in names}
    else:
        kind = type(network.module).__name__
        print(f"{kind} has no short names; these of its modules give one vector a token:", file=sys.stderr)
        widths = network.module_widths()
    for name, width in widths.items():
        print(f"{name:<40} {'–' if width is None else width:>6}")
    return 0
