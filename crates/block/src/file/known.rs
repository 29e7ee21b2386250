//! Where a file is known to hold data. The host's search for the next hole looks at each page up to it (tmpfs), so the
//! answer is kept: a job that asks for the status of each cluster would need seconds for a big file otherwise.

/// The most ranges that are kept.
const RANGES_MAX: usize = 64;

/// Ranges of bytes, in order; no two overlap or touch.
#[derive(Debug, Default)]
pub struct KnownData {
    ranges: Vec<(u64, u64)>,
}

impl KnownData {
    /// The end of the data that `offset` is in.
    pub fn end(&self, offset: u64) -> Option<u64> {
        let after = self.ranges.partition_point(|(from, _)| *from <= offset);
        self.ranges.get(after.checked_sub(1)?).map(|(_, to)| *to).filter(|to| *to > offset)
    }

    /// Data was found from `from` to `to`.
    pub fn add(&mut self, from: u64, to: u64) {
        let touched = self.touched(from, to);
        if touched.is_empty() && self.ranges.len() == RANGES_MAX {
            // The shortest range is the one that is found again at the least cost.
            let shortest = (0..self.ranges.len()).min_by_key(|at| self.ranges.get(*at).map(|(from, to)| to - from));
            self.ranges.remove(shortest.unwrap_or(0));
        }
        self.merge(from, to);
    }

    /// Data was written from `from` to `to`: what is known may grow, but isn't a range more.
    pub fn grow(&mut self, from: u64, to: u64) {
        if !self.touched(from, to).is_empty() {
            self.merge(from, to);
        }
    }

    /// There may be holes from `from` to `to` now.
    pub fn forget(&mut self, from: u64, to: u64) {
        let touched = self.touched(from, to);
        let parts: Vec<_> = self.ranges.get(touched.clone()).unwrap_or_default().to_vec();
        let cut = parts.into_iter().flat_map(|(start, end)| [(start, end.min(from)), (start.max(to), end)]);
        self.ranges.splice(touched, cut.filter(|(start, end)| start < end));
        self.ranges.truncate(RANGES_MAX);
    }

    fn merge(&mut self, from: u64, to: u64) {
        let touched = self.touched(from, to);
        let parts = self.ranges.get(touched.clone()).unwrap_or_default();
        let whole = parts.iter().fold((from, to), |(from, to), part| (from.min(part.0), to.max(part.1)));
        self.ranges.splice(touched, [whole]);
    }

    /// The ranges that overlap `from` to `to`, or touch it.
    fn touched(&self, from: u64, to: u64) -> std::ops::Range<usize> {
        let first = self.ranges.partition_point(|(_, end)| *end < from);
        first..self.ranges.partition_point(|(start, _)| *start <= to).max(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one_and_holes_cut_them() {
        let mut known = KnownData::default();
        known.add(100, 200);
        known.add(300, 400);
        known.grow(500, 600);
        assert_eq!(known.ranges, [(100, 200), (300, 400)]);
        known.grow(200, 250);
        known.add(250, 300);
        assert_eq!(known.ranges, [(100, 400)]);
        assert_eq!([99, 100, 399, 400].map(|at| known.end(at)), [None, Some(400), Some(400), None]);
        known.forget(150, 160);
        known.forget(390, 1000);
        known.forget(0, 100);
        assert_eq!(known.ranges, [(100, 150), (160, 390)]);
        known.forget(0, u64::MAX);
        assert_eq!(known.end(120), None);
    }

    #[test]
    fn number_of_ranges_has_a_limit_and_the_long_ones_stay() {
        let mut known = KnownData::default();
        known.add(0, 1 << 20);
        for at in 2..1000 {
            known.add(at << 20, (at << 20) + 1 + at % 7);
        }
        assert_eq!(known.ranges.len(), RANGES_MAX);
        assert_eq!(known.end(5), Some(1 << 20));
        assert!(known.ranges.is_sorted());
    }
}
