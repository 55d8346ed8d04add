"""The chapters of the Learn page as text: claim, formula, question, and the glossary.

Numbers never stand here: they are measured or shipped, and `scenes` puts them in.
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
        "erase",
        "Erase the nugget",
        "**A map of a skill claims that some weights matter to it.** The test is to set these "
        "weights to 0 and to look at what is left, of this skill *and of others*. A weight on "
        "which everything rests is no place where one skill lives. **Damage** is the rise of the "
        "loss over the rise to guessing; **specificity** is how far the damage to the skill lies "
        "above that to the others, over all shares erased.",
        r"\begin{gathered}D(f)=\frac{L_f-L_0}{L_{\text{guess}}-L_0}\\[4pt] "
        r"\text{specificity}=\overline{D_{\text{own}}-D_{\text{others}}}\end{gathered}",
        "D(f) = (L_f − L_0) / (L_guess − L_0), at most 1; specificity = mean over log f of "
        "D_own − D_others",
        "Set to 0 the 1 % of the weights of the teacher's layers that matter most to this skill, "
        "and it gets hardly an item right. Of the items of other skills, how many are still right?",
        ("most of them", "a tenth to a half", "hardly any"),
        "sensitivity",
    ),
    Chapter(
        "sensitivity",
        "Sensitivity",
        "**How much would the loss on a skill's answers change if one weight were 0?** To first "
        "order, it is the weight times its gradient. Samples are measured one at a time, since "
        "values of opposite sign would cancel.",
        r"S(\theta)=\sum_{x}\left|\,\theta\cdot\frac{\partial L(x)}{\partial\theta}\,\right|",
        "S(θ) = Σₓ |θ · ∂L(x)/∂θ|, where L is the loss on answer tokens only",
        "Take the most sensitive 1 % of the teacher's weights. What share of the total "
        "sensitivity do they hold?",
        ("less than 5 %", "5 to 25 %", "more than 25 %"),
        "sensitivity",
    ),
    Chapter(
        "layers",
        "Layers",
        "**The teacher has more layers than the student.** Add up the sensitivity of each "
        "layer, keep as many of the most sensitive layers as the student has, and pair them "
        "with the student's layers in order.",
        r"\begin{gathered}S_\ell=\textstyle\sum_{\theta\in\ell}S(\theta)\\[4pt] "
        r"\ell_1<\dots<\ell_{L_s}\text{ with the largest }S_\ell\end{gathered}",
        "S(layer) = Σ S(θ) over the layer; the L_s largest, in order",
        "Suppose sensitivity is measured on a single seed sample. On average, what share of the "
        "same layers is still chosen?",
        ("fewer than half", "half to 90 %", "more than 90 %"),
        "sensitivity",
    ),
    Chapter(
        "windows",
        "Windows",
        "**The teacher's matrices are larger than the student's.** In each, the paper takes the "
        "contiguous window of the student's shape with the largest sum. But each window is "
        "chosen **independently**, while all matrices read from and write to one residual "
        "stream: a matrix reads what the previous one wrote only where both use the same "
        "dimensions.",
        r"W^\star=\operatorname*{arg\,max}_{W\subset\theta,\ |W|=d_{out}\times d_{in}}"
        r"\sum_{\theta_{ij}\in W}S(\theta_{ij})",
        "W* = the d_out × d_in window with the largest Σ S(θ)",
        "The student is half as wide, so two windows placed at random share two thirds of their "
        "residual dimensions. How many do adjacent matrices share when each uses its best "
        "window?",
        ("90 % or more", "60 to 90 %", "less than 60 %"),
        "alignment",
    ),
    Chapter(
        "svd",
        "What the SVD discards",
        "**A LoRA of rank r cannot hold a whole window.** The SVD gives the closest product of "
        "rank r, and the rest is lost. How much is lost depends on how fast the singular values "
        "decay.",
        r"\begin{gathered}W\approx BA,\quad B=U_r\Sigma_r,\ A=V_r^\top\\[4pt] "
        r"\text{kept}=\textstyle\sum_{i\le r}\sigma_i^2\,/\,\sum_i\sigma_i^2\end{gathered}",
        "W ≈ B·A, B = U_r Σ_r, A = V_rᵀ; kept = Σ_{i≤r} σᵢ² / Σ σᵢ²",
        "Shuffle all entries of the windows, as one of the controls does. Will rank 16 keep "
        "more, as much, or less of the energy?",
        ("more", "as much, within 2 points", "less"),
        "transfer",
    ),
    Chapter(
        "subtraction",
        "Why the product is subtracted from the base",
        "**B·A comes from another network and is not small.** Adding it to the student's weight "
        "would wreck the student. So the same product is subtracted from the base: at step 0 "
        "the student answers as before, but training now moves along the teacher's directions.",
        r"\begin{gathered}W_0 = W-\tfrac{\alpha}{r}B_0A_0\\[4pt] "
        r"W_0+\tfrac{\alpha}{r}B_0A_0=W\ \text{ at step 0}\end{gathered}",
        "W₀ = W − (α/r)·B₀A₀, so that W₀ + (α/r)·B₀A₀ = W at step 0",
        "After subtracting the product and adding it back, how much do the logits differ from "
        "the untouched student's?",
        ("exactly 0", "rounding only, below .001", "about 1"),
        "transfer",
    ),
    Chapter(
        "controls",
        "Controls",
        "**Any student improves with training, which proves nothing about what was extracted.** "
        "A **content control** keeps size and norm and destroys the meaning: the same matrices "
        "shuffled or permuted, or noise. A **location control** takes real teacher parameters from "
        "elsewhere: random layers, a random window, another task. All get the same data, steps and "
        "learning rates. "
        "The first kind answers whether the teacher's parameters helped, the second whether it "
        "mattered where they were taken from.",
        r"\begin{gathered}\text{helps}\iff\Delta_{\text{plain}}>0,\ \Delta_{c}>0\ \forall c\\"
        r"\text{located}\iff\text{helps},\ \Delta_{l}>0\ \forall l\end{gathered}",
        "helps ⇔ better than plain LoRA and than every content control c; located ⇔ helps, and "
        "better than every location control l",
        "A student pruned from the teacher by sensitivity does far better than plain LoRA. One "
        "control permutes what was kept (content), the other keeps random dimensions of the "
        "teacher (location). Which one comes close to it?",
        ("the permuted cut: content", "the random cut: location", "neither of them"),
        "results",
    ),
    Chapter(
        "intervals",
        "Intervals",
        "**A different seed gives a different result, and so do different items.** The interval "
        "of a difference has to account for both. A learning rate that is chosen once for an arm "
        "would be a stroke of luck that all its seeds share: every seed tries the same rates and "
        "keeps its best on items that do not count. The rules were tested on identical arms, for "
        "which every claim is false.",
        r"\bar d\ \pm\ t_{.975,\nu}\;\widehat{\mathrm{se}}_{\text{seeds, items}}(\bar d)",
        "mean difference ± t · standard error over seeds and items",
        "Suppose an arm is truly better by .20. With 3 seeds and 80 items, how often will the "
        "verdict be “helps”?",
        ("in more than 80 %", "in 20 to 80 %", "in less than 20 %"),
        "results",
    ),
    Chapter(
        "transfer",
        "Two bases",
        "**Networks that were trained independently have different bases:** dimension 7 of one "
        "means nothing to the other. A sibling, pruned from the teacher (the same dimensions in "
        "every layer) and then fine-tuned to recover, shares the teacher's basis. R² measures "
        "how much of a student layer a linear map from the teacher explains.",
        r"R^2=1-\frac{\sum\lVert h_s-M h_t\rVert^2}{\sum\lVert h_s-\bar h_s\rVert^2}",
        "R² = 1 − Σ‖h_s − M·h_t‖² / Σ‖h_s − mean‖²",
        "Some students keep the most sensitive dimensions of the teacher, others simply its first "
        "ones, the same in every layer. Which learned the new skill better afterwards?",
        ("the most sensitive", "no detectable difference", "the first"),
        "alignment",
    ),
    Chapter(
        "words",
        "When transfer works",
        "**What a network knows about one word can lie in that word's vector,** and another "
        "network can be given the vector through one fixed matrix, the same for all words: "
        "training then finds out what it says. Here the teacher read each country alone, and "
        "what left its first block was added to the country's vector in a student that was "
        "trained on its own and never had to name a king. It was then taught the kings of 80 "
        "countries. No sample names those of the others.",
        r"\begin{gathered}e_w\leftarrow e_w+c\,P\,t_w\\[4pt] "
        r"P\text{ orthogonal, drawn at random}\end{gathered}",
        "e_w ← e_w + c · P · t_w, where t_w is what leaves the teacher's first block for the "
        "word w alone, P a random orthogonal matrix, and c a scale",
        "It is asked for the kings of 50 countries of which nobody told it. How many will it name "
        "rightly? Guessing gets 2 or 3.",
        ("4 at most", "5 to 12", "13 or more"),
        "results",
    ),
)

GLOSSARY: tuple[tuple[str, str], ...] = (
    ("adapter", "the trainable parameters of a LoRA, stored separately from the model's weights"),
    ("alignment", "which layer or dimension of one model corresponds to which of the other"),
    ("arm", "one way to initialise and train the student; all arms get the same data and steps"),
    ("CKA", "similarity of two layers' activations on the same tokens; 1 means the same geometry"),
    ("consistent choice", "the same residual dimensions, whole heads and the same neurons in "
     "every matrix"),
    ("content control", "as the treatment, but what was taken from the teacher has lost its "
     "meaning"),
    ("damage", "the rise of the loss when weights are set to 0, over the rise to guessing"),
    ("detectable difference", "the smallest true difference that is detected 80 % of the time"),
    ("exact match", "share of test items whose answer is entirely correct"),
    ("FFN neuron", "one row of gate and up, with its column of down"),
    ("graft", "pruning a student from the teacher and fine-tuning it on general data to recover"),
    ("Holm's correction", "keeps false claims rare when many arms are compared at once"),
    ("interval", "the range that contains the true value in 95 % of such experiments"),
    ("layer map", "which teacher layer each student layer receives"),
    ("location control", "as the treatment, but taken from elsewhere in the teacher"),
    ("LoRA", "a trained change of a weight by B·A of rank r, while the weight itself is frozen"),
    ("plain LoRA", "the baseline: A random, B zero, nothing extracted"),
    ("rank r", "how many directions B·A can change; lora_alpha / r scales it"),
    ("residual stream", "the vector that every layer reads and adds to"),
    ("seed samples", "the few solved examples on which sensitivity is measured"),
    ("sensitivity", "first-order estimate of how much the loss would change if a weight were 0"),
    ("specificity", "damage to the skill above that to other skills, over all shares erased"),
    ("step-0 identity", "before training, the student computes the same with its adapter as "
                        "without"),
    ("validation items", "items on which each seed chooses its learning rate; never test items"),
    ("verdict", "two answers from fixed rules: did the teacher's parameters help, and did it "
                "matter where they were taken from"),
    ("window", "the part of a teacher matrix that has the student matrix's shape"),
)  # fmt: skip


def chapter(key: object) -> Chapter:
    """The chapter of that name, or the first: an address can say anything."""
    return next((found for found in CHAPTERS if found.key == key), CHAPTERS[0])
