//! Power cuts by chance: for scripts too long to try everything.

use super::super::content::Content;
use super::super::tree::NodeId;
use super::image::{CrashImage, Random, TAILS, Tail, file_after, length_steps, piece_count};
use super::medium::{FileState, Medium};

/// Which of a number of things happened. Plain coins would hardly ever try the shapes that break programs: nothing,
/// all, all but one, a part from the front.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Nothing,
    All,
    Coins,
    Before(usize),
    From(usize),
    Only(usize),
    AllBut(usize),
}

impl Shape {
    fn draw(random: &mut Random, count: usize) -> Self {
        match random.below(8) {
            0 => Self::Nothing,
            1 => Self::All,
            2 => Self::Before(random.below(count)),
            3 => Self::From(random.below(count)),
            4 => Self::Only(random.below(count)),
            5 => Self::AllBut(random.below(count)),
            _ => Self::Coins,
        }
    }

    fn holds(self, random: &mut Random, number: usize) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Coins => random.coin(),
            Self::Before(end) => number < end,
            Self::From(start) => number >= start,
            Self::Only(one) => number == one,
            Self::AllBut(one) => number != one,
        }
    }
}

/// One image of a power cut at this moment, which is after `point` operations.
pub(super) fn sample(medium: &Medium, point: usize, random: &mut Random) -> CrashImage {
    let shape = Shape::draw(random, medium.pending.len());
    // Not asked for whole subsets only, and so always there.
    let tree = medium.names_after(|index| shape.holds(random, index), false);
    let tree = tree.unwrap_or_else(|| medium.durable.clone());
    CrashImage::new(point, tree, medium, |node, file| sample_file(node, file, random))
}

fn sample_file(node: NodeId, file: &FileState, random: &mut Random) -> Content {
    if file.pending.is_empty() {
        return file.durable.clone();
    }
    let steps = length_steps(file);
    // The longest possible length as often as all others: only there does it matter what arrived.
    let step = if random.coin() { steps.len() - 1 } else { random.below(steps.len()) };
    let reached = steps.get(step).copied().unwrap_or_default();
    let shape = Shape::draw(random, piece_count(file));
    let tail = TAILS.get(random.below(TAILS.len())).copied().unwrap_or(Tail::Zeros);
    file_after(node, file, reached, |number| shape.holds(random, number), tail)
}
