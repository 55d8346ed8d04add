"""The chapters of the Learn page as text: claim, formula, question, and the glossary.

Numbers never stand here: they are measured or shipped, and `learn_scenes` puts them in.
"""

from __future__ import annotations

from typing import NamedTuple


class Chapter(NamedTuple):
    """One lesson.

    Attributes:
        key: its name in the address.
        title: what it is about.
        text: what to know, as Markdown.
        formula: LaTeX.
        plain: the same formula as text, for print.
        question: what to guess.
        options: the answers to choose from.
        page: the page on which to go on.
    """

    key: str
    title: str
    text: str
    formula: str
    plain: str
    question: str
    options: tuple[str, str, str]
    page: str


CHAPTERS: tuple[Chapter, ...] = (
    Chapter(
        "sensitivity",
        "Sensitivity",
        "**How much would the loss on a skill's answers change if one weight were 0?** The "
        "weight times its gradient says so, to first order. One sample at a time: signs of "
        "different samples would cancel.",
        r"S(\theta)=\sum_{x}\left|\,\theta\cdot\frac{\partial L(x)}{\partial\theta}\,\right|",
        "S(θ) = Σₓ |θ · ∂L(x)/∂θ|, L counts the tokens of the answer only",
        "Take the most sensitive 1 % of the teacher's weights. How much of all sensitivity do "
        "they hold?",
        ("less than 5 %", "5 to 25 %", "more than 25 %"),
        "sensitivity",
    ),
    Chapter(
        "layers",
        "Layers",
        "**The teacher has more layers than the student.** Add up the sensitivity of each layer, "
        "keep as many of the best as the student has, and map them in their order.",
        r"\begin{gathered}S_\ell=\textstyle\sum_{\theta\in\ell}S(\theta)\\[4pt] "
        r"\ell_1<\dots<\ell_{L_s}\text{ with the largest }S_\ell\end{gathered}",
        "S(layer) = Σ S(θ) over the layer; the L_s largest, in their order",
        "One seed sample instead of all: how many of the chosen layers would it choose too, on "
        "average?",
        ("fewer than half", "half to 90 %", "more than 90 %"),
        "sensitivity",
    ),
    Chapter(
        "windows",
        "Windows",
        "**The teacher's matrices are larger than the student's.** In each, the paper takes the "
        "contiguous window of the student's shape with the largest sum. But every matrix is cut "
        "**on its own**, and all of them read and write one residual stream: the next matrix "
        "understands what this one writes only where both speak of the same dimensions.",
        r"W^\star=\operatorname*{arg\,max}_{W\subset\theta,\ |W|=d_{out}\times d_{in}}"
        r"\sum_{\theta_{ij}\in W}S(\theta_{ij})",
        "W* = the d_out × d_in window with the largest Σ S(θ)",
        "The student is half as wide, so two windows placed blindly share two thirds of their "
        "residual dimensions. How many do two neighbours share, each cut to its best window?",
        ("90 % or more", "60 to 90 %", "less than 60 %"),
        "alignment",
    ),
    Chapter(
        "svd",
        "What SVD throws away",
        "**A LoRA of rank r cannot hold a whole window.** The SVD gives the product of rank r "
        "that is nearest to it; the rest is lost. How much that is depends on how fast the "
        "singular values fall.",
        r"\begin{gathered}W\approx BA,\quad B=U_r\Sigma_r,\ A=V_r^\top\\[4pt] "
        r"\text{kept}=\textstyle\sum_{i\le r}\sigma_i^2\,/\,\sum_i\sigma_i^2\end{gathered}",
        "W ≈ B·A, B = U_r Σ_r, A = V_rᵀ; kept = Σ_{i≤r} σᵢ² / Σ σᵢ²",
        "Shuffle all entries of the windows, as one of the controls does. Will rank 16 keep more, "
        "as much, or less of them?",
        ("more", "as much, within 2 points", "less"),
        "transfer",
    ),
    Chapter(
        "subtraction",
        "Why the base is subtracted",
        "**B·A comes from another network and is not small.** Added to the student's weight it "
        "would wreck it. So the same product is taken out of the base: at step 0 the student "
        "answers as before, but training now moves along the teacher's directions.",
        r"\begin{gathered}W_0 = W-\tfrac{\alpha}{r}B_0A_0\\[4pt] "
        r"W_0+\tfrac{\alpha}{r}B_0A_0=W\ \text{ at step 0}\end{gathered}",
        "W₀ = W − (α/r)·B₀A₀, so that W₀ + (α/r)·B₀A₀ = W at step 0",
        "After subtracting and adding back, by how much do the student's logits differ from the "
        "untouched student's?",
        ("by exactly 0", "by rounding, below .001", "by about 1"),
        "transfer",
    ),
    Chapter(
        "controls",
        "Controls",
        "**A student that was trained gets better; that proves nothing about what was "
        "extracted.** A control gets the same data, steps and size of start, but a start that "
        "holds no knowledge: the same matrices shuffled or permuted, noise of the same norm, "
        "random layers or windows. Only what beats all of them came from the teacher.",
        r"\begin{gathered}\text{helps}\iff \Delta_{\text{plain}}>0\\ "
        r"\text{and }\Delta_{c}>0\text{ for every control }c\end{gathered}",
        "helps ⇔ the paired differences to plain LoRA and to every control have intervals above 0",
        "Here the paper's start took the student from next to nothing to a fifth of all items. "
        "Where does its mean stand among its five controls?",
        ("above all of them", "above some, below others", "below all of them"),
        "benchmarks",
    ),
    Chapter(
        "intervals",
        "Intervals",
        "**Another seed gives another number, and so do other items.** A difference needs an "
        "interval that counts both. The rules here were tried on identical arms, where every "
        "claim is false.",
        r"\bar d\ \pm\ t_{.975,\nu}\;\widehat{\mathrm{se}}_{\text{seeds, items}}(\bar d)",
        "mean difference ± t · standard error, seeds and items both counted",
        "An arm is truly better by .20. With 3 seeds and 80 items, how often will the verdict "
        "say “helps”?",
        ("nearly always", "about half the time", "nearly never"),
        "benchmarks",
    ),
    Chapter(
        "transfer",
        "When transfer works",
        "**Two networks trained apart have different bases:** dimension 7 of one means nothing "
        "to the other. A sibling, cut out of the teacher with one consistent choice of dimensions "
        "and healed, shares its basis. R² says how much of a student layer a linear map from the "
        "teacher explains.",
        r"R^2=1-\frac{\sum\lVert h_s-M h_t\rVert^2}{\sum\lVert h_s-\bar h_s\rVert^2}",
        "R² = 1 − Σ‖h_s − M·h_t‖² / Σ‖h_s − mean‖²",
        "Cut students by sensitivity, or at random but consistently. Which learned the new skill "
        "better afterwards?",
        ("cut by sensitivity", "no difference seen", "cut at random"),
        "alignment",
    ),
)

GLOSSARY: tuple[tuple[str, str], ...] = (
    ("adapter", "the few trained weights of a LoRA, kept apart from the model's own"),
    ("alignment", "which layer or dimension of one model does the work of which of the other"),
    ("arm", "one way to start and train the student; all arms get the same data and steps"),
    ("CKA", "similarity of two layers' activations on the same tokens; 1 is alike"),
    ("consistent choice", "the same residual dimensions, whole heads and the same neurons in all "
     "matrices"),
    ("control", "an arm whose start has the treatment's size but none of its knowledge"),
    ("detectable difference", "the smallest true difference found in four of five experiments"),
    ("exact match", "share of test items whose whole answer is right"),
    ("FFN neuron", "one row of gate and up with its column of down"),
    ("graft", "cutting a student out of the teacher and healing it on general data"),
    ("Holm's correction", "keeps false claims rare when many arms are compared at once"),
    ("interval", "the range that holds the true value in 95 % of such experiments"),
    ("layer map", "which teacher layer each student layer receives"),
    ("LoRA", "a change of a weight by B·A of rank r, trained while the weight itself rests"),
    ("plain LoRA", "the baseline: A random, B zero, nothing extracted"),
    ("rank r", "how many directions B·A can change; lora_alpha / r scales it"),
    ("residual stream", "the vector that every layer reads from and adds to"),
    ("seed samples", "the few solved examples on which sensitivity is measured"),
    ("sensitivity", "first-order estimate of the change of loss if a weight were 0"),
    ("step-0 identity", "before training the student with its adapter answers as without"),
    ("verdict", "one sentence from fixed rules, such as helps, hurts, or no difference seen"),
    ("window", "the part of a teacher matrix that has the student matrix's shape"),
)  # fmt: skip


def chapter(key: object) -> Chapter:
    """The chapter of that name, or the first: an address can say anything."""
    return next((found for found in CHAPTERS if found.key == key), CHAPTERS[0])
