"""From a name to a `Site`: short names, TransformerLens's hook names, module paths."""

import re
from collections.abc import Mapping
from typing import cast

from torch import nn

from polyseme.core.errors import InputError, nearest_names
from polyseme.core.site import Port, Site
from polyseme.networks.families import TRANSFORMER_LENS
from polyseme.networks.loaded import Loaded

_PATH = re.compile(r"(?P<path>.*?)(?:\.(?P<port>in|out|stream))?(?:\[head (?P<head>\d+)\])?$", re.DOTALL)


class SiteTable:
    """Every name that the places of a network have."""

    def __init__(self, loaded: Loaded):
        module, base, family, config = loaded.module, loaded.base, loaded.family, loaded.config
        self._where = loaded.where
        self._paths = {name for name, _ in module.named_modules() if name}
        self._sites: dict[str, Site] = {}
        self._absent: dict[str, str] = {}
        self._n_heads: int | None = getattr(config, "num_attention_heads", None)
        self.n_blocks = 0
        if family is None:
            return
        blocks = module.get_submodule(f"{base}{family.blocks}")
        assert isinstance(blocks, nn.ModuleList)
        self.n_blocks = len(blocks)
        absent = family.absent(config)
        short = {name: place for name, place in family.sites.items() if name not in absent}
        self._add(short, base)
        self._absent = self._expand(absent)
        self._add_heads()
        for hook, name in TRANSFORMER_LENS.items():
            if hook in family.transformer_lens:
                self._add({hook: family.transformer_lens[hook]}, base)
            elif name in short:
                self._add({hook: short[name]}, base)
            elif name in absent:
                self._absent |= self._expand({hook: absent[name]})
        extra = {hook: place for hook, place in family.transformer_lens.items() if hook not in TRANSFORMER_LENS}
        self._add(extra, base)

    def resolve(self, name: object) -> Site:
        """The site of that name; raises `InputError` with the nearest names for one that does not exist."""
        if isinstance(name, Site):
            return self._checked(name)
        if not isinstance(name, str):
            fix = "give its name, such as blocks.2.resid_post"
            raise InputError(f"an object of type {type(name).__name__} names no site", where=self._where, fix=fix)
        if name in self._sites:
            return self._sites[name]
        if name in self._absent:
            raise InputError(f"This network has no site {name!r}: {self._absent[name]}", where=self._where)
        if name in self._paths:
            return Site(path=name)
        match = _PATH.fullmatch(name)
        if match and match["path"] in self._paths:
            head = None if match["head"] is None else int(match["head"])
            n_heads = None if head is None else self._n_heads
            port = cast(Port, match["port"] or "out")
            return self._checked(Site(path=match["path"], port=port, head=head, n_heads=n_heads))
        raise self._unknown(name)

    def names(self, *, modules: bool = False) -> list[str]:
        """Short names and hook names; with `modules`, module paths too."""
        names = list(self._sites)
        if modules:
            names += sorted(self._paths)
        return names

    @property
    def named(self) -> Mapping[str, Site]:
        """The sites that have a short name or a hook name."""
        return self._sites

    def _checked(self, site: Site) -> Site:
        if site.path and site.path not in self._paths:
            raise self._unknown(site.path)
        if site.head is not None:
            if site.n_heads is None:
                raise InputError(f"The site {site} names a head but not how many there are", fix="give n_heads")
            if not 0 <= site.head < site.n_heads:
                raise InputError(
                    f"The site {site} names head {site.head} of {site.n_heads}",
                    fix=f"heads are 0 to {site.n_heads - 1}",
                )
        return site

    def _unknown(self, name: str) -> InputError:
        is_short = not self._sites and name.startswith(("blocks.", "embed", "unembed", "ln_final"))
        near = [] if is_short else nearest_names(name, [*self._sites, *sorted(self._paths)])
        if is_short:
            more = ": its architecture has no short names, only module paths"
        else:
            more = f" (it has blocks 0 to {self.n_blocks - 1})" if self.n_blocks else ""
        perhaps = f"perhaps {', '.join(near)}; " if near else ""
        return InputError(
            f"This network has no site {name!r}{more}",
            where=self._where,
            fix=f"{perhaps}`polyseme sites NETWORK` lists them, and network.site_names(modules=True) in Python",
        )

    def _expand(self, templates: Mapping[str, str]) -> dict[str, str]:
        expanded: dict[str, str] = {}
        for name, value in templates.items():
            if "{n}" in name:
                for n in range(self.n_blocks):
                    expanded[name.replace("{n}", str(n))] = value.replace("{n}", str(n))
            else:
                expanded[name] = value
        if "final_norm" in expanded:
            expanded["ln_final"] = expanded["final_norm"]
        return expanded

    def _add(self, templates: Mapping[str, str], base: str) -> None:
        for name, place in self._expand(templates).items():
            path, port = place.rsplit(".", 1)
            assert f"{base}{path}" in self._paths, f"{name}: no module {base}{path}"
            self._sites[name] = Site.model_validate({"path": f"{base}{path}", "port": port})

    def _add_heads(self) -> None:
        if self._n_heads is None:
            return
        for n in range(self.n_blocks):
            z = self._sites.get(f"blocks.{n}.attn.z")
            for head in range(self._n_heads) if z else ():
                assert z is not None
                name = f"blocks.{n}.attn.head.{head}"
                self._sites[name] = Site(path=z.path, port=z.port, head=head, n_heads=self._n_heads)
            if z is None:
                self._absent |= {
                    f"blocks.{n}.attn.head.{head}": reason
                    for head in range(self._n_heads)
                    if (reason := self._absent.get(f"blocks.{n}.attn.z"))
                }
