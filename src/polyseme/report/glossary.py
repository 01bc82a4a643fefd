"""What every number in a report means, and what none of them shows."""

from polyseme.evaluation.metrics import METRICS

_IN_STUDIES = ("reconstruction", "lookup", "splice", "ladder", "stability", "learning")
"""The passes whose metrics a study has."""
GLOSSARY: tuple[tuple[str, str], ...] = (
    (
        "Latent, feature",
        "A latent is a unit of a dictionary. A feature is a variable of the data or of the network: a truth. The "
        'report judges latents; "network feature" says what was shown of one, not that it is a feature.',
    ),
    (
        "Profile, word",
        "A latent's profile is its answer on each of four axes. Its word follows from the answers by the table from "
        "profile to word. An answer is yes, not shown, or none; not shown is not the same as absent.",
    ),
    (
        "Density",
        "Share of held-out vectors on which a latent fires. Dead: it never fires there; dense: on more than a tenth.",
    ),
    (
        "Massive and ordinary vectors",
        "A vector is massive when its distance from the site's centre, the coordinate-wise median, is more than 10 "
        "times the median distance (or the factor in training.leave_out.norm), as measured on train tokens. A few of "
        "them, most often at the start of a window, can carry most of the variance. Figures for ordinary vectors leave "
        "out massive ones and positions that training leaves out; ȳ is then the mean of the ordinary vectors.",
    ),
    (
        "Mean ablation",
        "Every counted token's vector is replaced by the mean vector of the site over the first 50,000 training tokens "
        "(all of them where there are fewer), in whole windows: one vector for the whole split, not the mean of the "
        "held-out tokens.",
    ),
    (
        "Joint",
        "Every site of the study patched in the same forward pass.",
    ),
    *((m.title, m.meaning) for m in METRICS.values() if m.measured in _IN_STUDIES and m.vectors == "counted"),
    (
        "Control, null",
        "A null is something random in the place of the weights, the tokens or the dictionary's directions; a control "
        "is the study on a null. The profile is judged against the nulls of the weights, whose dictionaries show what "
        "the method finds in a network that learned nothing. What dictionaries of null texts predict is shown, and "
        "nothing rests on it: the network computes there what it computes on any text. A control of the dictionary has "
        "the real network and text: its scores show what training the directions adds.",
    ),
    (
        "Partner",
        "The dictionary of another seed, trained on the same network and text. All that is chosen or fitted in a "
        "partner, a null's dictionary or a table is chosen on train text and measured on held-out text.",
    ),
    (
        "Recurrent",
        "Value: the correlation of fᵢ with its best match in a partner, mean over the partners. Null: the larger of "
        "verdicts.recurrence (0.7 unless set) and a floor, the 95th percentile of the same for latents of random "
        "directions that fire as often: f(x) = relu((x − mean)·w − θ), w ~ N(0, Cov of the site's vectors). Second "
        "null: √verdicts.in_one (√0.7 unless set) times the correlation with the best linear prediction from all "
        "latents of the partner, which the match exceeds where one latent of the partner stands for fᵢ, and several "
        "together do not.",
    ),
    (
        "The network's",
        "Value: the correlation of fᵢ with its best linear prediction from all latents of a partner (ridge, λ = 0.003, "
        "columns centred and of unit norm), mean over the partners. Null: the same from dictionaries that were trained "
        "on null networks, mean over the draws; one comparison for each kind of null of the weights. Value − null must "
        "exceed verdicts.margin (0.05 unless set).",
    ),
    (
        "Beyond tokens",
        "The same value. Nulls: the correlation of fᵢ with tables that were learned on train text (of the token, of "
        "the previous token, of the bigram, backed off to the token, and of the position). Value − null must exceed "
        "verdicts.margin. A table and the partners are compared at the tokens whose entry of the table occurs at least "
        "five times in the train text.",
    ),
    (
        "Used: expected effect",
        "What the latent stands for in the text: its lift P(next = v | it fires) / P(next = v), counted on train text, "
        "each firing by its activation. What removing it does: Δ(v) = log p(v) − log p(v with fᵢdᵢ removed) at a "
        "firing. Value: their correlation over tokens v, each of which counts P(next = v), mean over sampled held-out "
        "firings; strong firings are sampled more often. Null: the same with null directions in its place, of the "
        "norm of what is removed, at the same tokens, each fixed over all firings of the latent. Beside it stands the "
        "expected effect beyond the same tokens, with P(next = v | it fires) − P(next = v | the same current tokens), "
        "divided by P(next = v), in the place of the lift; no answer rests on that.",
    ),
    (
        "Null directions",
        "Isotropic: any direction. Covariance: drawn from N(0, Cov of the site's vectors). Other latent: the write "
        "direction of another latent that fires. Alike latent: of one that is alike in density and norm.",
    ),
    (
        "Size of effect",
        "How much removing a latent changes the predictions, whichever way: KL(clean ‖ ablated), the rise of the loss "
        "that the clean predictions expect, and CE(ablated) − CE(clean), the rise of the loss of the actual next "
        "token; at the token, and summed over the predictions that follow (causal.horizon of them). Shown beside the "
        "same of each class of null directions; no answer rests on it, as random directions of the site's covariance "
        "often have a larger one.",
    ),
    (
        "Hardest null, p corrected",
        "p is one-sided, by Student's t: that value − null is not above the least difference. The hardest null is that "
        "of the largest p, and the answer rests on it; as all must be exceeded, no correction over nulls is needed "
        "(Berger 1982). It is corrected by Benjamini–Hochberg over the latents of all sites, once for each axis.",
    ),
    (
        "Errors",
        "Of a correlation: spread over partners, over draws of the null and over 20 groups of held-out documents "
        "(jackknife). The first two are of a few replicates each, and are shrunk towards what is usual among the "
        "latents (Smyth 2004). Of an expected effect: the spread of the null directions, of which the latent's own is "
        "one more if nothing is special about it, shrunk alike.",
    ),
    (
        "Repetition",
        "A repetition of the study judges the same dictionary; seeds of the partners, draws of nulls, held-out "
        "documents, sampled firings and null directions are all drawn again. The share of repetitions that give an "
        "answer is that of a difference which is normally distributed around the measured one, with √2 times its "
        "standard deviation under redrawing; its interval is for true differences within their 95% intervals. The "
        "share that give a word takes the axes to be independent. With two partners, where few latents have a yes on "
        "an axis, these shares are too high.",
    ),
    (
        "Detectable difference",
        "The least value − null that would have been shown of a latent, after correction, against the null that asks "
        "for most.",
    ),
    (
        "Token share ε²",
        "Var(E[f | token]) / Var(f), corrected for tokens that occur a few times only (Kelley's ε²): how much of a "
        "latent follows from the present token alone. About 0 where nothing does, and it may lie a little below.",
    ),
    (
        "Interval",
        "95%, percentile bootstrap over documents unless said otherwise: tokens of one document depend on each other. "
        "None from fewer than six documents: what they span cannot hold a value 95% of the time.",
    ),
    (
        "Not measured",
        "The number does not exist for this study. It is never replaced by 0.",
    ),
)
LIMITS: tuple[str, ...] = (
    "No axis shows that a latent is monosemantic, or that it means what its contexts suggest.",
    "No axis shows that a latent is one variable of the network: a part of one, or two at once, can have every yes.",
    "No axis shows where something is computed. A latent whose information only passes through the site counts as "
    "used where what follows reads it.",
    "Removing a write direction shows what predictions need at that site. A copy of the same information elsewhere "
    "hides it.",
    "Use is sought in the next prediction, and along the tokens that follow the latent in the text. A latent used "
    "for something else is not shown to be used.",
    "Beyond tokens means beyond these tables. A function of more than two tokens that a simpler machine could "
    "compute is beyond them.",
    "A null bounds what the method finds without the thing that the null destroys. Another null may explain what "
    "these do not.",
    "Maximal contexts are a selection and flatter a latent. Read the random ones beside them.",
    "Logit effects follow the direct path only: no later layer and no final norm stands between.",
)
"""What no axis shows, and what to beware of."""
