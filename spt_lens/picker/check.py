"""The live check of a selection of heads, in parts so short that a notebook's kernel can go on between them.

Between two parts nothing of ours is on the model: contexts that are a thread's or the model's own (`torch.no_grad`,
`ModelView.kept`, hooks) are entered and left within a part, since the user's cells run in between.
"""

from __future__ import annotations

from collections.abc import Generator

from tqdm.auto import tqdm

from spt_lens.checking import MANY, instance, number, whole_number
from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.measure.knockout import to_judge
from spt_lens.measure.set_effect import SetEffect
from spt_lens.measure.sets import Runs, sets_of
from spt_lens.model.generation import finish
from spt_lens.model.limits import FORM, Pace
from spt_lens.model.replies import reply_prompts
from spt_lens.model.view import Model, ModelView
from spt_lens.patching.rows import make_rows
from spt_lens.picker.check_parts import Asked, CheckParts, Kept, Progress
from spt_lens.picker.runner import ModelState

FIRST = 4  # prompts read in the first part of all; later ones have more or fewer, by how long that took
MOST_PASSES, MOST_REPLIES = 32, 64  # prompts at once, as set_patching and set_knockout have them
NO_REPLIES = "there are no replies to judge: the pairs have no dialogues, or no judge"


class LiveCheck:
    """What a selection of heads does, patched in and knocked out, measured in short parts.

    The figures are those of `set_patching` with the same heads, n_random and seed, patched in at the last position;
    where replies are asked for, also those of `set_knockout`, with the heads set to their mean over both kinds of
    prompts while the model replies. `begins` and the logit differences are left out. Replies can be judged only where
    the pairs have challenged dialogues and a judge.

    What does not depend on the selection is kept from one check to the next, for as long as the model's weights,
    buffers and hooks are the same. Only a write of some elements past torch's own count, such as through `.data`, can
    go unnoticed: call `forget` after one.

    n_random: draws of random heads to set beside the selection; none for more than half of all heads. part_seconds: how
    long a part should take; it is one forward pass at least, however long that takes.

    Raises: ValueError as set_patching and set_knockout do, or for part_seconds that is no time.
    """

    def __init__(
        self, model: Model, pairs: ContrastPairs, n_random: int = 3, seed: int = 0, part_seconds: float = 0.15
    ) -> None:
        self.view = ModelView(model)
        whole_number(n_random, "n_random", 0, MANY)
        number(part_seconds, "part_seconds", above=0)
        runs = Runs(self.view, pairs, make_rows(self.view, pairs))
        dialogues = to_judge(pairs.judge, pairs.dialogues)
        length = 1 if pairs.judge is None else pairs.judge.max_new_tokens
        prompts = reply_prompts(self.view, dialogues, length)
        passes = Pace(FIRST, part_seconds, MOST_PASSES)
        replies = Pace(MOST_REPLIES, part_seconds, MOST_REPLIES)  # made smaller by memory alone
        self.asked = Asked(self.view, pairs, runs, dialogues, prompts, length, passes, replies, n_random, seed)
        self._kept: Kept | None = None

    @property
    def can_reply(self) -> bool:
        """Whether there is anything to reply to, and a judge of it."""
        return bool(self.asked.prompts)

    def parts(self, heads: HeadSet, replies: bool = False) -> Generator[Progress, None, SetEffect]:
        """The check of a selection, one short part at each `next`; the generator returns the whole result.

        First comes what the selection recovers, then what the random draws do; then, if asked for, the same of replies.
        It may be closed at any point.

        Raises, at once: TypeError for heads that are no HeadSet; ValueError for an empty selection, heads that the
        model does not have, a model in training mode, or replies of pairs that have no dialogues or no judge. On the
        way: ModelChanged if the model's weights, buffers or hooks are changed between two parts; ValueError as
        set_patching does.
        """
        instance(heads, "heads", HeadSet, "use HeadSet.of(...) or scores.top(4)")
        if replies and not self.can_reply:
            raise ValueError(NO_REPLIES)
        self.view.check_measurable()
        # A selection of more than half of all heads leaves too few for a random one: it is measured alone.
        n_random = self.asked.n_random if 2 * len(heads) <= self.view.n_layers * self.view.n_heads else 0
        sets = sets_of(self.view, heads, None, n_random, self.asked.seed)
        return CheckParts(self.asked, self.current, sets, replies).parts()

    def run(self, heads: HeadSet, progress: bool = True, replies: bool = False) -> SetEffect:
        """All parts, with a progress bar. Raises as `parts` does."""
        parts = self.parts(heads, replies)
        with tqdm(total=1.0, desc="check", bar_format=FORM, disable=not progress) as bar:

            def show(part: Progress) -> None:
                bar.set_description_str(part.says, refresh=False)
                bar.update(part.done - bar.n)

            return finish(parts, show)

    def forget(self) -> None:
        """Drops what is kept between checks: the next one measures everything anew."""
        self._kept = None

    def current(self) -> Kept:
        """What is kept, of the model as it is now."""
        if self._kept is None or not self._kept.state.is_of(self.view):
            self._kept = Kept(ModelState(self.view))
        return self._kept
