"""A made-up but life-like report, and hostile text to put into every place a corpus or a user can reach."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from polyseme.core.config import Config
from polyseme.core.records import (
    AXES,
    STATUSES,
    Answer,
    Axis,
    AxisResult,
    Evidence,
    Interval,
    MetricRecord,
    Status,
    Verdict,
)
from polyseme.interpret.records import Context, Histogram, LatentReport, Neighbour, Size, Stratum, TokenWeight
from polyseme.report.schema import (
    AxisReport,
    Chart,
    Comparison,
    Continuation,
    ControlSummary,
    ControlValue,
    Curve,
    DictionaryReport,
    Faithfulness,
    Judging,
    NullKind,
    NullReport,
    Provenance,
    SpliceRow,
    StudyReport,
    StudySummary,
)
from polyseme.verdicts.error_rates import Calibration, PlantedKind

HOSTILE = (
    "<script>alert(1)</script>",
    "</style><script>alert(2)</script>",
    '"><img src=x onerror=alert(3)>',
    "' onmouseover='alert(4)",
    "</bdi></details></svg><svg onload=alert(5)>",
    "\u202egnp.exe\u2066\u2069",
    "\x1b[31;1mred\x1b[0m\x1b]8;;http://example.com\x07",
    "[bold red]markup[/] [link=http://example.com]x[/link] [/]",
    "{{ 7*7 }}{% include '/etc/passwd' %}",
    "\u200b\u200d\ufeff\x00",
    "a\u0301\u0302\u0303\u0304\u0305\u0306\u0307\u0308\u030a\u030b" * 3,
    "<iframe src=http://example.com></iframe><link rel=stylesheet href=http://example.com/x.css>",
    "@import url(http://example.com/x.css);",
    "javascript:alert(6)",
    "日本語テキスト العربية עברית हिन्दी 🧪",
    "x" * 400,
)
CODE = (
    *(
        "def",
        " __init__",
        "(",
        "self",
        ",",
        " name",
        "=",
        "None",
        ",",
        " *",
        "args",
        "):",
        "↵",
        "        self",
        "._",
        "name",
    ),
    *(
        " =",
        " name",
        "↵",
        "        if",
        " not",
        " isinstance",
        "(",
        "value",
        ",",
        " int",
        "):",
        "↵",
        "            raise",
    ),
    *(" Type", "Error", "('", "expected", " int", "')", "↵", "        return", " super", "().", "__", "enter", "__()"),
    *("↵", "        for", " key", ",", " value", " in", " items", ".", "items", "():", "↵", "            try", ":"),
)
SITES = ("blocks.0.resid_post", "blocks.1.resid_post", "blocks.2.resid_post")
CONTROLS = (
    ControlSummary(
        name="spectrum_reinit",
        targets="weights",
        preserves="singular values, biases, norms",
        destroys="every direction that was learned",
    ),
    ControlSummary(
        name="gaussian_reinit+embeddings",
        targets="weights",
        preserves="mean and spread of each tensor; the embeddings",
        destroys="spectra and directions",
    ),
)


NULLS: dict[Axis, tuple[str, ...]] = {
    "recurrent": ("random directions",),
    "network": tuple(control.name for control in CONTROLS),
    "beyond_tokens": ("token table", "previous token table", "bigram table", "position table"),
    "used": ("isotropic", "covariance", "other_latent", "alike_latent"),
}
ANSWERS: dict[Status, tuple[Answer, Answer, Answer, Answer]] = {
    "network_feature": ("yes", "yes", "yes", "yes"),
    "token_level": ("yes", "yes", "no", "yes"),
    "use_not_shown": ("yes", "yes", "no", "no"),
    "not_beyond_nulls": ("yes", "no", "unknown", "yes"),
    "not_recurrent": ("no", "no", "no", "no"),
    "undecided": ("yes", "unknown", "unknown", "no"),
}
"""The answers on `AXES` of a latent with each word."""
MISSING = "it fires in fewer than 20 held-out documents"
JUDGING = Judging(
    partners=(1, 2),
    nulls=tuple(NullKind(name=control.name, targets="weights", draws=2) for control in CONTROLS),
    tables=("token", "previous token", "bigram", "position"),
    directions=NULLS["used"],
    n_directions=3,
    n_samples=16,
    horizon=16,
)


def record(name: str, value: float, spread: float = 0.02, **kwargs: Any) -> MetricRecord:
    """A metric with an interval of a relative half width `spread`."""
    half = abs(value) * spread
    bounds = Interval(low=value - half, high=value + half * 1.1)
    return MetricRecord(name=name, value=value, interval=bounds, n=20_480, **kwargs)


LEARNED = (("rising", 0.10, 0.18, 0.243), ("flat", 0.41, 0.44, 0.44), ("open", 0.2, 0.31, 0.33))
"""By site, what the last doubling says and the shares that recurred."""


def learning(i: int) -> tuple[MetricRecord, ...]:
    """Learning curves of a site."""
    outcome, *shares = LEARNED[i % len(LEARNED)]
    found: list[MetricRecord] = []
    for name, values in (("recurring", shares), ("recurring_match", [0.2 + share for share in shares])):
        for k, value in enumerate(values):
            found.append(record(name, value, 0.08, scope={"site": SITES[i], "tokens": 240_000 * 2**k}))
        spread = {"rising": 0.01, "flat": 0.008, "open": 0.05}[outcome]
        change = values[-1] - values[-2]
        found.append(
            MetricRecord(
                name=f"{name}_change",
                value=change,
                interval=Interval(low=change - spread, high=change + spread),
                n=2048,
                scope={"site": SITES[i]},
                details={"outcome": outcome, "from": 480_000, "to": 960_000},
            )
        )
    return tuple(found)


def axis_result(rng: np.random.Generator, axis: Axis, answer: Answer) -> AxisResult:
    """One axis with every comparison that it rests on; none where there is no answer."""
    if answer == "unknown":
        return AxisResult(axis=axis, answer=answer, missing=MISSING, n=7)
    value = float(rng.uniform(0.55, 0.95) if axis != "used" else rng.normal(0.3 if answer == "yes" else 0.02, 0.05))
    least = 0.05 if axis in ("network", "beyond_tokens") else 0.0
    evidence: list[Evidence] = []
    for null in NULLS[axis]:
        above = float(rng.uniform(0.12, 0.4) if answer == "yes" else rng.normal(0.0, 0.03))
        evidence.append(
            Evidence(
                null=null,
                value=value,
                null_value=value - above,
                interval=Interval(low=above - 0.06, high=above + 0.06, method="Student's t"),
                least=least,
                p=float(rng.uniform(0, 0.002) if answer == "yes" else rng.uniform(0.1, 0.9)),
            )
        )
    return AxisResult(
        axis=axis,
        answer=answer,
        evidence=tuple(evidence),
        hardest=max(evidence, key=lambda item: item.p).null,
        p_corrected=0.004 if answer == "yes" else 0.41,
        frequency=0.93 if answer == "yes" else 0.12,
        frequency_interval=Interval(low=0.66, high=0.99) if answer == "yes" else Interval(low=0.0, high=0.6),
        n=int(rng.integers(20, 180)),
    )


def verdict(rng: np.random.Generator, status: Status) -> Verdict:
    """A profile from which the word follows."""
    return Verdict(
        status=status,
        axes=tuple(axis_result(rng, axis, answer) for axis, answer in zip(AXES, ANSWERS[status], strict=True)),
        frequency=float(rng.uniform(0.6, 1)),
        frequency_interval=Interval(low=0.31, high=1.0),
        missing=MISSING if status == "undecided" else "",
    )


SIZES = {"given_token": 0.081, "kl": 0.0172, "loss": 0.0121, "kl_later": 0.0312, "loss_later": -0.0021}


def _sizes(rng: np.random.Generator) -> tuple[Size, ...]:
    return tuple(
        Size(
            name=name,
            value=value,
            interval=Interval(low=value - 0.01, high=value + 0.012),
            nulls=tuple((null, float(rng.gamma(2, 0.008))) for null in NULLS["used"]),
        )
        for name, value in SIZES.items()
    )


def latent_report(
    rng: np.random.Generator, site: str, latent: int, status: Status, hostile: bool, n_contexts: int = 16
) -> LatentReport:
    """One latent, its contexts made of code tokens, with a hostile one in each where asked."""
    greatest = float(rng.gamma(4, 1.6)) + 1
    sizes: dict[Stratum, int] = {"top": 6, "quantile": 3, "random": 4, "near_miss": 3}
    strata: list[Stratum] = [stratum for stratum, size in sizes.items() for _ in range(size)]
    contexts: list[Context] = []
    for j, stratum in enumerate(strata[:n_contexts]):
        start = int(rng.integers(0, len(CODE) - 19))
        tokens = list(CODE[start : start + 19])
        if hostile:
            tokens[int(rng.integers(0, 19))] = HOSTILE[int(rng.integers(0, len(HOSTILE)))]
        activations = np.where(rng.random(19) < 0.15, rng.random(19) * greatest * 0.5, 0.0)
        activations[12] = {
            "top": greatest * (1 - 0.03 * j),
            "quantile": greatest * (1 - j / 9),
            "random": greatest * rng.random(),
        }.get(stratum, 0.0)
        contexts.append(
            Context(
                stratum=stratum,
                document=HOSTILE[j % len(HOSTILE)] if hostile else f"json/decoder_{j}.py",
                position=int(rng.integers(1, 256)),
                focus=12,
                tokens=tuple(tokens),
                activations=tuple(map(float, activations)),
                kl_effects=tuple(
                    float(v) if a else math.nan for v, a in zip(rng.gamma(0.5, 0.1, 19), activations, strict=True)
                ),
                loss_effects=tuple(
                    float(v) if a else math.nan for v, a in zip(rng.normal(0, 0.1, 19), activations, strict=True)
                ),
            )
        )
    n = int(rng.integers(12, 4000))

    def weights(sign: float) -> tuple[TokenWeight, ...]:
        tokens = HOSTILE if hostile else CODE
        return tuple(
            TokenWeight(token=tokens[int(i)], value=float(sign * (8 - j) * 0.11), n=20)
            for j, i in enumerate(rng.integers(0, len(tokens), 8))
        )

    counts, edges = np.histogram(np.minimum(rng.gamma(1.2, greatest / 4, n), greatest), bins=32, range=(0, greatest))
    return LatentReport(
        site=site,
        latent=latent,
        verdict=verdict(rng, status),
        why="a repetition is most likely to give it the same word: no. 1 at this site",
        density=n / 60_000,
        n_tokens=n,
        n_documents=int(rng.integers(2, 120)),
        mean_activation=greatest / 3,
        max_activation=greatest,
        token_share=float(rng.random()),
        token_share_interval=Interval(low=0.2, high=0.5),
        recurrence=float(rng.random()),
        sizes=_sizes(rng),
        read_norm=1.2,
        write_norm=0.98,
        read_write_cosine=0.71,
        nearest=(
            Neighbour(dictionary="seed 1", latent=77, value=0.82),
            Neighbour(dictionary="seed 2", latent=901, value=0.79),
            *(Neighbour(dictionary=c.name, latent=None, value=float(rng.random() * 0.5)) for c in CONTROLS),
        ),
        neighbours=(
            Neighbour(dictionary="same", latent=3, value=0.41, measure="write cosine"),
            Neighbour(dictionary="same", latent=9, value=0.22, measure="co-firing"),
        ),
        histogram=Histogram(edges=tuple(map(float, edges)), counts=tuple(map(float, counts)), label="activation"),
        top_tokens=weights(1),
        top_logits=weights(1),
        bottom_logits=weights(-1),
        contexts=tuple(contexts),
    )


def _density(rng: np.random.Generator, centre: float) -> Histogram:
    counts, edges = np.histogram(rng.normal(centre, 0.7, 2048), bins=28, range=(-7, 0))
    return Histogram(edges=tuple(map(float, edges)), counts=tuple(map(float, counts)), label="log10 density")


def axis_report(rng: np.random.Generator, axis: Axis) -> AxisReport:
    """An axis of a dictionary of 2,048 latents."""
    least = 0.05 if axis in ("network", "beyond_tokens") else 0.0
    difference = np.concatenate([rng.normal(0.25, 0.1, 812), rng.normal(0.0, 0.06, 1036)])
    edges = np.histogram_bin_edges(difference, 36)

    def histogram(values: np.ndarray) -> Histogram:
        counts = np.histogram(values, edges)[0]
        return Histogram(edges=tuple(map(float, edges)), counts=tuple(map(float, counts)), label="value − hardest null")

    shifts = rng.normal(0.05, 0.03, len(NULLS[axis]))
    return AxisReport(
        axis=axis,
        yes=812,
        no=1036,
        unknown=200,
        missing={MISSING: 200},
        least=least,
        value=0.74,
        null_value=0.66,
        detectable=0.041,
        kept=0.93,
        nulls=tuple(
            NullReport(
                null=null,
                n_hardest=1848 if i == 0 else 0,
                difference=tuple(shift + q for q in (-0.1, 0, 0.06, 0.2, 0.4)),
            )
            for i, (null, shift) in enumerate(zip(NULLS[axis], map(float, shifts), strict=True))
        ),
        differences=(
            ("yes", histogram(difference[:812])),
            ("no", histogram(difference[812:])),
            ("unknown", histogram(difference[:0])),
        ),
    )


def _dictionary(rng: np.random.Generator, site: str, i: int, fvu: float) -> DictionaryReport:
    x = np.linspace(0, 1, 26)
    steps = np.linspace(1e4, 1.2e6, 40)
    return DictionaryReport(
        name=site,
        site=f"transformer.h.{i}.out",
        architecture="topk",
        d_in=256,
        n_latents=2048,
        seed=0,
        n_train_tokens=1_200_000,
        settings=(("k", "24"), ("learning rate", "0.0008")),
        metrics=(
            record("fvu", fvu, better="lower"),
            record("fvu_token", fvu + 0.3, better="lower"),
            record("fvu_bigram", fvu + 0.17, better="lower"),
            record("l0", 24.0, 0.0, unit="latents/vector"),
            record("dead_latents", 0.031, 0.2, better="lower"),
            record("dense_latents", 0.004, 0.2),
            MetricRecord(name="cosine", value=math.nan, n=0),
            record("stability_shared", 0.38 - 0.05 * i, 0.04, better="higher", details={"chance": 0.002}),
        ),
        verdict_counts=dict(zip(STATUSES, (142 - 30 * i, 377, 301 + 70 * i, 288, 690, 250 - 40 * i), strict=True)),
        verdicts_kept=dict(zip(STATUSES, (0.91, 0.84, 0.8, 0.77, 0.95, 0.99), strict=True)),
        verdicts_missing={
            MISSING: 200 - 40 * i,
            "no value that there can be would have been shown to exceed token table": 50,
        },
        axes=tuple(axis_report(rng, axis) for axis in AXES),
        density=(
            ("trained", _density(rng, -2.3)),
            *((c.name, _density(rng, -2.0 - 0.1 * k)) for k, c in enumerate(CONTROLS)),
        ),
        stability=Chart(
            title="Seed stability",
            x_label="cosine threshold",
            y_label="share of latents matched",
            curves=(
                Curve(
                    name="seed 1 against seed 0",
                    x=tuple(x),
                    y=tuple(1 / (1 + np.exp((x - 0.62) * 9))),
                    low=tuple(1 / (1 + np.exp((x - 0.6) * 9))),
                    high=tuple(1 / (1 + np.exp((x - 0.64) * 9))),
                ),
                Curve(name="random directions", x=tuple(x), y=tuple(1 / (1 + np.exp((x - 0.22) * 40))), null=True),
            ),
            note="Hungarian matching of write directions.",
        ),
        learning=learning(i),
        training=(
            Chart(
                title="Reconstruction loss",
                x_label="tokens",
                y_label="FVU",
                log_y=True,
                curves=(Curve(name="seed 0", x=tuple(steps), y=tuple(fvu + 40 / np.sqrt(steps))),),
            ),
            Chart(
                title="Dead latents",
                x_label="tokens",
                y_label="latents",
                curves=(Curve(name="seed 0", x=tuple(steps), y=tuple(600 * np.exp(-steps / 2e5))),),
            ),
        ),
    )


def _splice(site: str, clean: float, patched: float, equivalent: str, joint: bool = False) -> SpliceRow:
    zero, mean = 8.1 - 0.2 * clean, 5.9 + (1.3 if joint else 0.0)
    return SpliceRow(
        site=site,
        joint=joint,
        ce_clean=record("ce_clean", clean, unit="nats/token"),
        ce_patched=record("ce_patched", patched, unit="nats/token"),
        ce_zero=record("ce_zero", zero, unit="nats/token"),
        ce_mean=record("ce_mean", mean, unit="nats/token"),
        recovered_zero=record("ce_recovered", (zero - patched) / (zero - clean), 0.01),
        recovered_mean=record("ce_recovered", (mean - patched) / (mean - clean), 0.01),
        kl=record("kl", patched - clean + 0.03, unit="nats/token"),
        delta_ce=record("ce_increase", patched - clean, 0.05, unit="nats/token"),
        compute_equivalent=equivalent,
    )


def _planted(name: str, is_feature: bool | None, share: float, n: int, counts: tuple[int, ...]) -> PlantedKind:
    return PlantedKind(
        name=name,
        is_feature=is_feature,
        called=MetricRecord(
            name="called_network_feature",
            value=share,
            interval=Interval(low=max(0.0, share - 0.012), high=share + 0.031, method="over networks"),
            n=n,
            n_unit="latents",
        ),
        counts=dict(zip(STATUSES, counts, strict=True)),
    )


def sample_report(*, per_status: int = 6, hostile: bool = False, seed: int = 0) -> StudyReport:
    """Three sites, three seeds, two controls; `per_status` latents of each word."""
    rng = np.random.default_rng(seed)
    fvus = (0.121, 0.152, 0.180)
    comparisons: list[Comparison] = []
    for name, base, better in (("fvu", fvus, "lower"), ("ce_recovered", (0.985, 0.97, 0.95), "higher")):
        for site, value in zip(SITES, base, strict=True):
            values = []
            for control, factor in zip(CONTROLS, (0.8, 1.17), strict=True):
                null = value * factor if name == "fvu" else value * 0.7 * factor
                values.append(
                    ControlValue(
                        control=control.name,
                        record=record(name, null, 0.03, better=better),
                        gap=value - null,
                        gap_interval=Interval(low=value - null - 0.01, high=value - null + 0.01),
                    )
                )
            scope = {"ablation": "mean"} if name == "ce_recovered" else {}
            trained = record(name, value, 0.02, better=better, scope=scope)
            comparisons.append(Comparison(site=site, trained=trained, controls=tuple(values)))
    latents = [
        latent_report(rng, SITES[j % 3], 100 * k + j, status, hostile)
        for k, status in enumerate(STATUSES)
        for j in range(per_status)
    ]
    text = HOSTILE[0] + HOSTILE[5] if hostile else ""
    prompt = 'def load(path):\n    """Read a file."""\n    with open(path) as f:\n' + text
    return StudyReport(
        title="demo" + text,
        run="demo-3fa92b1c",
        summary=StudySummary(
            network="pylm" + text,
            n_parameters=3_910_000,
            network_fingerprint="9c" * 32,
            corpus="the Python standard library" + text,
            n_train_tokens=1_200_000,
            n_heldout_tokens=101_240,
            n_heldout_documents=184,
            context=256,
            seeds=(0, 1, 2),
            controls=CONTROLS,
            versions=(("polyseme", "0.1.0"), ("torch", "2.13.0"), ("transformers", "5.23.0")),
            git_commit="4be1c3a9" * 5,
            git_dirty=True,
            argv="polyseme demo" + text,
            started="2031-05-04T10:22:41+02:00",
            wall_seconds=318.4,
            peak_memory_bytes=2.61 * 2**30,
            device="cpu, 2 threads",
        ),
        dictionaries=tuple(_dictionary(rng, s, i, fvus[i]) for i, s in enumerate(SITES)),
        faithfulness=Faithfulness(
            single=tuple(
                _splice(s, 2.951, p, e)
                for s, p, e in zip(
                    SITES,
                    (3.02, 3.09, 3.17),
                    (
                        "with blocks.0.resid_post patched the 3.9 M model predicts like a 3.1 M one",
                        "with blocks.1.resid_post patched the 3.9 M model predicts like a 2.2 M one",
                        "with blocks.2.resid_post patched the 3.9 M model predicts like a 1.6 M one",
                    ),
                    strict=True,
                )
            ),
            joint=_splice(
                "joint", 2.951, 3.42, "with every site patched the 3.9 M model predicts like a 0.6 M one", joint=True
            ),
            interaction=record("ce_interaction", 0.041, 0.3, unit="nats/token"),
            ladder=(("50k", 50_000, 4.61), ("160k", 160_000, 4.02), ("600k", 610_000, 3.43), ("3.9m", 3.91e6, 2.951)),
            n_parameters=3.91e6,
        ),
        comparisons=tuple(comparisons),
        continuations=(
            Continuation(
                document="json/decoder.py" + text,
                prompt=prompt,
                clean="        return f.read()\n\n\ndef save(path, text):\n",
                patched="        for line in f:\n            yield line\n" + text,
                true="        return json.load(f)\n",
            ),
        ),
        latents=tuple(latents),
        judging=JUDGING,
        calibration=Calibration(
            description="Random networks with sparse variables planted in them, of every kind that the table names; "
            "judged by the same code with the same thresholds.",
            controls=("gaussian_reinit", "spectrum_reinit"),
            n_networks=12,
            kinds=(
                _planted("features", True, 0.87, 240, (209, 11, 9, 6, 3, 2)),
                _planted("statistics of the input", False, 0.014, 139, (2, 101, 0, 36, 0, 0)),
                _planted("latents of random directions", False, 0.0, 300, (0, 0, 2, 8, 290, 0)),
                _planted("half of a feature's firings, by a rule", None, 0.41, 80, (33, 2, 20, 5, 20, 0)),
            ),
        ),
        provenance=(
            Provenance(stage="tokens", key="ab" * 32, seconds=12.1, reused=True),
            Provenance(stage="train", key="cd" * 32, inputs=("tokens", text or "network"), seconds=141.0),
        ),
        limits=("Splicing was measured on the first 20,480 held-out tokens.",),
    )


def bare_report(**changes: object) -> StudyReport:
    """One site, one seed, no control, nothing fires, nothing measured."""
    full = sample_report(per_status=0)
    site = full.dictionaries[0]
    empty = site.model_copy(
        update={
            "metrics": (MetricRecord(name="fvu", value=math.nan, n=0),),
            "verdict_counts": {},
            "density": (("trained", Histogram(edges=(-7.0, 0.0), counts=(0.0,))),),
            "stability": None,
            "learning": (),
            "training": (),
            "verdicts_kept": {},
            "verdicts_missing": {},
            "axes": (),
        }
    )
    bare: dict[str, object] = {
        "summary": full.summary.model_copy(
            update={"seeds": (0,), "controls": (), "wall_seconds": math.nan, "peak_memory_bytes": math.nan}
        ),
        "dictionaries": (empty,),
        "faithfulness": None,
        "comparisons": (),
        "continuations": (),
        "latents": (),
        "judging": Judging(),
        "calibration": None,
        "provenance": (),
        "limits": (),
    }
    return full.model_copy(update=bare | changes)


LONG_NAMES = (
    "model.decoder.transformer.layers.23.self_attention.dense_output_projection.out",
    "نموذج.المحول.الطبقات.٢٣.الانتباه_الذاتي.المخرجات",
    "変換器.層.二十三.自己注意機構.全結合出力射影.出力",
    "x" * 120,
)
LONG_CONTROLS = (
    *(f"gaussian_reinit+embeddings+normalisation_layers, seed {seed}" for seed in range(4)),
    "تهيئة_عشوائية_بنفس_الطيف",
    "スペクトル保存再初期化",
)


def one_site() -> StudyReport:
    """One site: nothing joint to compare it with."""
    full = sample_report(per_status=2)
    assert full.faithfulness is not None
    joint_of_one = full.faithfulness.single[0].model_copy(update={"site": "joint", "joint": True})
    name = full.dictionaries[0].name
    own = [c for c in full.comparisons if c.site == name]
    return full.model_copy(
        update={
            "dictionaries": full.dictionaries[:1],
            "comparisons": (*own, *(c.model_copy(update={"site": "joint"}) for c in own)),
            "latents": tuple(x for x in full.latents if x.site == name),
            "faithfulness": full.faithfulness.model_copy(
                update={"single": full.faithfulness.single[:1], "joint": joint_of_one, "interaction": None}
            ),
        }
    )


NO_NULL = "the study has no null of the weights"
NO_EFFECTS = "the network does not predict the next token"


def _unanswered(part: AxisReport, why: str) -> AxisReport:
    """An axis that nothing was measured on."""
    return AxisReport(axis=part.axis, yes=0, no=0, unknown=2048, missing={why: 2048}, least=part.least)


def no_control() -> StudyReport:
    """Measured, with two seeds, but without a control."""
    full = sample_report(per_status=0)
    return full.model_copy(
        update={
            "summary": full.summary.model_copy(update={"controls": ()}),
            "comparisons": (),
            "calibration": None,
            "dictionaries": tuple(
                d.model_copy(
                    update={
                        "verdict_counts": {"not_recurrent": 1400, "undecided": 648},
                        "verdicts_missing": {NO_NULL: 648},
                        "axes": tuple(
                            _unanswered(part, NO_NULL) if part.axis == "network" else part for part in d.axes
                        ),
                        "density": d.density[:1],
                    }
                )
                for d in full.dictionaries
            ),
        }
    )


def encoder() -> StudyReport:
    """A network that sees later tokens: no loss and no effect, so that only words that need none are there."""
    full = sample_report(per_status=3)
    assert full.faithfulness is not None

    def unmeasured(row: SpliceRow) -> SpliceRow:
        return row.model_copy(
            update={
                **{name: unknown(getattr(row, name)) for name in SPLICE_RECORDS},
                "compute_equivalent": "",
            }
        )

    def unknown(record: MetricRecord) -> MetricRecord:
        return record.model_copy(
            update={
                "value": math.nan,
                "interval": Interval(low=math.nan, high=math.nan),
                "n": 0,
                "details": {"note": "not measured: the network sees later tokens, so it has no next-token prediction"},
            }
        )

    return full.model_copy(
        update={
            "faithfulness": full.faithfulness.model_copy(
                update={
                    "single": tuple(unmeasured(row) for row in full.faithfulness.single),
                    "joint": None if full.faithfulness.joint is None else unmeasured(full.faithfulness.joint),
                    "interaction": None,
                    "ladder": (),
                }
            ),
            "comparisons": tuple(
                c
                if c.trained.name == "fvu"
                else c.model_copy(
                    update={
                        "trained": unknown(c.trained),
                        "controls": tuple(
                            k.model_copy(update={"record": unknown(k.record), "gap": math.nan, "gap_interval": None})
                            for k in c.controls
                        ),
                    }
                )
                for c in full.comparisons
            ),
            "continuations": (),
            "dictionaries": tuple(
                d.model_copy(
                    update={
                        "verdict_counts": {"not_beyond_nulls": 300, "not_recurrent": 700, "undecided": 1048},
                        "verdicts_missing": {NO_EFFECTS: 1048},
                        "axes": tuple(
                            _unanswered(part, NO_EFFECTS) if part.axis == "used" else part for part in d.axes
                        ),
                    }
                )
                for d in full.dictionaries
            ),
            "latents": tuple(
                x.model_copy(
                    update={
                        "verdict": Verdict(
                            status="undecided",
                            axes=(
                                *x.verdict.axes[:3],
                                AxisResult(axis="used", answer="unknown", missing=NO_EFFECTS),
                            ),
                            missing=NO_EFFECTS,
                        ),
                        "sizes": (),
                        "top_logits": (),
                        "bottom_logits": (),
                    }
                )
                for x in full.latents
            ),
        }
    )


SPLICE_RECORDS = (
    *("ce_clean", "ce_patched", "ce_zero", "ce_mean", "recovered_zero", "recovered_mean", "kl", "delta_ce"),
)


def nothing_measured() -> StudyReport:
    """Every part is there and every number in it is missing."""

    def emptied(value: Any) -> Any:
        if isinstance(value, bool):
            return value
        if isinstance(value, float):
            return math.nan
        if isinstance(value, tuple):
            return tuple(emptied(v) for v in value)
        if isinstance(value, Config):
            return value.model_copy(update={name: emptied(getattr(value, name)) for name in type(value).model_fields})
        return value

    return emptied(sample_report(per_status=1))


def outlying() -> StudyReport:
    """One value in each chart is far beyond the others."""
    full = sample_report(per_status=2)
    dictionaries: list[DictionaryReport] = []
    for d in full.dictionaries:
        axes = tuple(
            part.model_copy(
                update={
                    "value": 4e5,
                    "detectable": 1e-9,
                    "nulls": tuple(
                        null.model_copy(update={"difference": (-3e3, 0.0, 0.1, 0.2, 4e5)}) for null in part.nulls
                    ),
                }
            )
            for part in d.axes
        )
        training = tuple(
            chart.model_copy(
                update={"curves": tuple(c.model_copy(update={"y": (1e12, *c.y[1:])}) for c in chart.curves)}
            )
            for chart in d.training
        )
        metrics = tuple(
            m.model_copy(update={"value": 1.7e9, "interval": Interval(low=-3e9, high=8e12)}) for m in d.metrics
        )
        dictionaries.append(
            d.model_copy(
                update={
                    "axes": axes,
                    "training": training,
                    "metrics": metrics,
                    "verdict_counts": {"network_feature": 10**9, "token_level": 1, "undecided": 1},
                }
            )
        )
    comparisons = tuple(
        c.model_copy(
            update={
                "controls": tuple(
                    k.model_copy(
                        update={
                            "record": record(c.trained.name, -7.31e7, 3.0, better=c.trained.better),
                            "gap": 7.31e7,
                            "gap_interval": Interval(low=-1.4e8, high=2.9e8),
                        }
                    )
                    for k in c.controls
                )
            }
        )
        for c in full.comparisons
    )
    assert full.faithfulness is not None
    broken = full.faithfulness.single[0].model_copy(
        update={name: record(name, 24_600.0, 2.0, unit="nats/token") for name in ("ce_patched", "ce_zero", "kl")}
    )
    return full.model_copy(
        update={
            "dictionaries": tuple(dictionaries),
            "comparisons": comparisons,
            "faithfulness": full.faithfulness.model_copy(
                update={"single": (broken, *full.faithfulness.single[1:]), "ladder": (("1", 1, 99.0), ("2", 3e12, 0.1))}
            ),
        }
    )


def _renamed(part: AxisReport) -> AxisReport:
    """The same with as many nulls as there are long names of controls."""
    if part.axis != "network":
        return part
    return part.model_copy(
        update={"nulls": tuple(part.nulls[0].model_copy(update={"null": name}) for name in LONG_CONTROLS)}
    )


def huge(*, per_status: int = 100, n_sites: int = 9) -> StudyReport:
    """Many sites and controls with long names of several scripts, and long tokens."""
    rng = np.random.default_rng(5)
    names = tuple(f"{LONG_NAMES[i % len(LONG_NAMES)]}.{i}" for i in range(n_sites))
    full = sample_report(per_status=0)
    controls = tuple(
        ControlSummary(name=name, targets="weights", preserves="spectra " * 30, destroys="directions " * 30)
        for name in LONG_CONTROLS
    )
    tokens = ("انتباه", "注意機構を含む非常に長い文", "W" * 300, "a_b" * 90, "🧪" * 40, "\u202etxt")

    comparisons = [
        Comparison(
            site=site,
            trained=record(metric, value, 0.02, better="lower", unit="a unit with a rather long name"),
            controls=tuple(
                ControlValue(
                    control=control.name,
                    record=record(metric, value * (1 + 0.1 * k), 0.03, better="lower"),
                    gap=-value * 0.1 * k,
                    gap_interval=Interval(low=-value * 0.1 * k - 0.01, high=-value * 0.1 * k + 0.01),
                )
                for k, control in enumerate(controls)
            ),
        )
        for metric, value in (("fvu", 0.1213), ("l0", 24.0), ("ce_increase", 0.0721))
        for site in (*names, "joint")
    ]
    latents: list[LatentReport] = []
    for k, status in enumerate(STATUSES):
        for j in range(per_status):
            latent = latent_report(rng, names[j % n_sites], 10**6 * k + j, status, False, n_contexts=3)
            contexts = tuple(
                c.model_copy(
                    update={"tokens": tuple(tokens[int(i)] for i in rng.integers(0, len(tokens), len(c.tokens)))}
                )
                for c in latent.contexts
            )
            weights = tuple(
                w.model_copy(update={"token": tokens[i % len(tokens)]}) for i, w in enumerate(latent.top_tokens)
            )
            latents.append(
                latent.model_copy(update={"contexts": contexts, "top_tokens": weights, "why": "よく発火する " * 12})
            )
    assert full.faithfulness is not None
    sites = [full.dictionaries[i % 3] for i in range(n_sites)]
    rows = [full.faithfulness.single[i % 3] for i in range(n_sites)]
    return full.model_copy(
        update={
            "title": "a-study-with-a-name-as-long-as-names-may-be-which-is-64-characters",
            "run": "r" * 80,
            "judging": JUDGING.model_copy(
                update={
                    "partners": tuple(range(1, 12)),
                    "nulls": tuple(NullKind(name=name, targets="weights", draws=10) for name in LONG_CONTROLS),
                }
            ),
            "summary": full.summary.model_copy(
                update={"controls": controls, "seeds": tuple(range(12)), "network": "/" + "very/long/path" * 12}
            ),
            "dictionaries": tuple(
                d.model_copy(
                    update={
                        "name": names[i],
                        "architecture": "matryoshka_batch_topk",
                        "axes": tuple(_renamed(part) for part in d.axes),
                        "density": (d.density[0], *((c.name, d.density[1][1]) for c in controls)),
                    }
                )
                for i, d in enumerate(sites)
            ),
            "faithfulness": full.faithfulness.model_copy(
                update={"single": tuple(r.model_copy(update={"site": names[i]}) for i, r in enumerate(rows))}
            ),
            "comparisons": tuple(comparisons),
            "latents": tuple(latents),
            "provenance": tuple(
                Provenance(stage=f"dictionaries/{name}", key="ef" * 32, inputs=names, seconds=1e6) for name in names
            ),
        }
    )


KINDS: dict[str, Callable[[], StudyReport]] = {
    "several sites": lambda: sample_report(per_status=2),
    "one site": one_site,
    "no control": no_control,
    "encoder": encoder,
    "bare": bare_report,
    "nothing measured": nothing_measured,
    "outlying": outlying,
    "hostile": lambda: sample_report(per_status=1, hostile=True),
    "huge": lambda: huge(per_status=2),
}
"""Reports of every kind that the page has to hold."""
