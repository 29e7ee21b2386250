//! The pieces of a region: how they are cut, where control flow meets, and which flags are seen.

use super::*;

impl Piece {
    /// Cuts off what begins at `rip`, unless that is its start or in the middle of an instruction.
    pub(crate) fn split(&mut self, rip: u64) -> Option<Self> {
        let at = self.items.iter().position(|item| item.rip == rip).filter(|at| *at != 0)?;
        let items = self.items.split_off(at);
        let before = rip.wrapping_sub(self.rip) as u32;
        let bytes = self.bytes.saturating_sub(before);
        self.bytes = before;
        Some(Self { items, rip, bytes })
    }
}

/// Where a piece goes on, as far as it is known.
pub(crate) fn successors_of(piece: &Piece) -> [Option<u64>; 2] {
    let Some(last) = piece.items.last() else { return [Some(piece.rip), None] };
    match last.flow {
        Flow::Next => [Some(last.next()), None],
        Flow::Ends => [Some(last.next()), None],
        Flow::Jumps if is_jcc(&last.ins) => [Some(last.next()), Some(last.target())],
        Flow::Jumps if is_direct(&last.ins) && last.ins.mnemonic() == M::Jmp => [Some(last.target()), None],
        Flow::Jumps if repeats_string(&last.ins) => [Some(last.next()), None],
        Flow::Jumps => [None, None],
    }
}

/// Where control flow meets, and what it needs there.
pub(super) struct Plan {
    /// Flags are canonical at the piece's start.
    pub canonical: Vec<bool>,
    /// Signals are polled there: a loop closes.
    pub polled: Vec<bool>,
    /// Nobody sees the flags that control comes with.
    pub dead: Vec<bool>,
}

pub(super) fn find(pieces: &[Piece], rip: u64) -> Option<usize> {
    pieces.iter().position(|piece| piece.rip == rip)
}

impl Plan {
    pub(super) fn of(pieces: &[Piece]) -> Self {
        let successors: Vec<[Option<usize>; 2]> =
            pieces.iter().map(|piece| successors_of(piece).map(|rip| find(pieces, rip?))).collect();
        let mut entries = vec![0u32; pieces.len()];
        for index in successors.iter().flatten().flatten() {
            entries[*index] += 1;
        }
        let mut plan = Self {
            canonical: entries.iter().enumerate().map(|(index, count)| index == 0 || *count > 1).collect(),
            polled: vec![false; pieces.len()],
            dead: vec![false; pieces.len()],
        };
        plan.polled[0] = true;
        // 0: not seen, 1: on the path, 2: done.
        let mut seen = vec![0u8; pieces.len()];
        let mut path = vec![(0usize, 0usize)];
        seen[0] = 1;
        while let Some((index, next)) = path.pop() {
            if next == 2 {
                seen[index] = 2;
                continue;
            }
            path.push((index, next + 1));
            if let Some(target) = successors[index][next] {
                match seen[target] {
                    0 => {
                        seen[target] = 1;
                        path.push((target, 0));
                    }
                    1 => {
                        plan.polled[target] = true;
                        plan.canonical[target] = true;
                    }
                    _ => {}
                }
            }
        }
        plan
    }

    /// Finds out which flags each instruction must leave right. Who leaves the region, or is polled, shows all of them.
    pub(super) fn find_live_flags(&mut self, pieces: &mut [Piece]) {
        const ALL: u8 = ARITHMETIC as u8;
        // Behind an instruction of the system a signal may be taken after the first instruction.
        let mut shown = self.polled.clone();
        for piece in &*pieces {
            if piece.items.last().is_some_and(|last| last.flow == Flow::Ends)
                && let Some(next) = find(pieces, piece.items.last().map_or(0, Item::next))
            {
                shown[next] = true;
            }
        }
        let mut live_at = vec![ALL; pieces.len()];
        // Each pass starts from more than what is seen, so that any number of them will do.
        for _ in 0..2 {
            for index in (0..pieces.len()).rev() {
                let inside = successors_of(&pieces[index]).into_iter().flatten().try_fold(0, |live, rip| {
                    let target = find(pieces, rip).filter(|target| !shown[*target])?;
                    Some(live | live_at[target])
                });
                let last = pieces[index].items.last();
                let flows = last.is_some_and(|last| last.flow == Flow::Next || is_jcc(&last.ins));
                let mut live = inside.filter(|_| flows).unwrap_or(ALL);
                for item in pieces[index].items.iter_mut().rev() {
                    item.live = live;
                    live = if is_jcc(&item.ins) && inside.is_some() { live | item.reads } else { item.live_before() };
                }
                live_at[index] = live;
            }
        }
        self.dead = (0..pieces.len()).map(|index| live_at[index] == 0 && !shown[index]).collect();
    }
}
