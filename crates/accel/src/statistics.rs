//! What a translating vCPU tells about its code memory.

/// Counts since the vCPU was made, and sizes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TranslatorStats {
    /// Bytes of code memory that hold translations.
    pub code_bytes: u64,
    /// Bytes of code memory that there are.
    pub code_capacity: u64,
    /// Translated regions that exist.
    pub regions: u64,
    /// Basic blocks in them.
    pub blocks: u64,
    /// Bytes of guest code in them.
    pub guest_bytes: u64,
    /// Guest instructions in them.
    pub guest_instructions: u64,
    /// Guest bytes of the largest region.
    pub largest_region: u64,
    /// Regions whose guest code lies on two pages.
    pub crossing_regions: u64,
    /// Exits of regions that lead directly to another region.
    pub linked_exits: u64,
    /// Regions ever made.
    pub translations: u64,
    /// Times that all of the code memory was emptied.
    pub flushes: u64,
    /// Regions dropped because their guest code changed.
    pub invalidations: u64,
    /// Times that all of the first-level TLB was emptied.
    pub tlb_flushes: u64,
    /// Nanoseconds spent on translating.
    pub translation_ns: u64,
    /// Pieces of code that both tiers ran with the same result, in the mode that compares them.
    pub compared: u64,
    /// Guest instructions in them.
    pub compared_instructions: u64,
}

impl TranslatorStats {
    /// Adds another vCPU's.
    pub fn add(&mut self, other: &Self) {
        let Self {
            code_bytes,
            code_capacity,
            regions,
            blocks,
            guest_bytes,
            guest_instructions,
            largest_region,
            crossing_regions,
            linked_exits,
            translations,
            flushes,
            invalidations,
            tlb_flushes,
            translation_ns,
            compared,
            compared_instructions,
        } = *other;
        self.code_bytes += code_bytes;
        self.code_capacity += code_capacity;
        self.regions += regions;
        self.blocks += blocks;
        self.guest_bytes += guest_bytes;
        self.guest_instructions += guest_instructions;
        self.largest_region = self.largest_region.max(largest_region);
        self.crossing_regions += crossing_regions;
        self.linked_exits += linked_exits;
        self.translations += translations;
        self.flushes += flushes;
        self.invalidations += invalidations;
        self.tlb_flushes += tlb_flushes;
        self.translation_ns += translation_ns;
        self.compared += compared;
        self.compared_instructions += compared_instructions;
    }
}
