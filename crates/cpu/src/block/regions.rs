//! When blocks are translated, and what a region is made of.

use std::sync::Arc;

use memory::PAGE_SIZE;

use super::{Inner, Key, LONGEST_BLOCK, NEVER, NO_PAGE, Source, Translator};
use crate::decode::LONGEST;
use crate::jit::{self, Jit, Outcome, Piece, Place};
use crate::state::Cpu;

/// Code that is rewritten before it gets hot must be so many times hotter: translating it costs more than it gains.
const REWRITTEN_FACTOR: u16 = 4;
/// Rewriting after which code counts as rewritten.
const REWRITTEN: u8 = 2;
/// Limits of a translated region.
const REGION_BLOCKS: usize = 48;
const REGION_INSTRUCTIONS: usize = 400;

impl Cpu {
    /// Runs the translation of a block, if there is one or it is hot enough to make one.
    pub(super) fn run_translated(&mut self, cache: &mut Inner, index: u32, linear: u64) -> Option<Outcome> {
        let key = self.translation_key()?;
        if cache.follows_blocks {
            return None;
        }
        let block = cache.blocks.get_mut(index as usize)?;
        let (page, generation, second) = (block.page, block.generation, block.second);
        let place = Place { linear, page, generation, second, second_generation: block.second_generation, key };
        let hot_after = self.translator.hot_after;
        let limit = if block.trust != 0 {
            // What was hot before it was rewritten gets hot again.
            0
        } else if block.was_hot || block.rewritten < REWRITTEN {
            hot_after
        } else {
            hot_after.saturating_mul(REWRITTEN_FACTOR)
        };
        if let Translator::On(jit) = &mut cache.jit {
            let made = jit.translations();
            let mut region = jit.known(block.region, &place);
            // Cold code is looked up again only when there is something new.
            if region.is_none() && (block.sought != made || block.heat >= limit) {
                region = jit.find(&place);
                block.sought = made;
            }
            if let Some(region) = region {
                block.region = region;
                return Some(if self.lockstep.is_none() {
                    jit.run(self, region)
                } else {
                    self.run_lockstep(cache, region)
                });
            }
        }
        if block.heat < limit {
            block.heat += 1;
            return None;
        }
        let made = self.translate_region(cache, index, &place);
        let block = cache.blocks.get_mut(index as usize)?;
        let (Some(region), Translator::On(jit)) = (made, &mut cache.jit) else {
            block.heat = NEVER;
            return None;
        };
        block.region = region;
        Some(if self.lockstep.is_none() { jit.run(self, region) } else { self.run_lockstep(cache, region) })
    }

    #[cold]
    #[inline(never)]
    fn translate_region(&mut self, cache: &mut Inner, index: u32, place: &Place) -> Option<u32> {
        if matches!(cache.jit, Translator::NotYet) {
            cache.jit = self.new_translator();
        }
        let Translator::On(jit) = &cache.jit else { return None };
        let blocks = if jit.one_instruction() { 1 } else { REGION_BLOCKS };
        let eager = blocks != 1 && cache.blocks.get(index as usize).is_some_and(|block| block.trust != 0);
        let mut pieces = self.region_pieces(cache, place, blocks, eager)?;
        if !cache.blocks.get(index as usize).is_some_and(|block| cache.is_valid(block)) {
            return None;
        }
        let Translator::On(jit) = &mut cache.jit else { return None };
        jit.translate(self, *place, &mut pieces)
    }

    fn new_translator(&self) -> Translator {
        if !self.translator.enabled || self.counter.is_some() {
            return Translator::Off;
        }
        match Jit::new(&self.translator, self, &self.signals) {
            Ok(jit) => Translator::On(Box::new(jit)),
            // A host that forbids code to be made has the interpreter.
            Err(refused) => {
                tracing::warn!("guest code is interpreted: {refused}");
                Translator::Off
            }
        }
    }

    /// The blocks of one page that were executed and that direct jumps connect with the one at `place`, that one first.
    /// `eager`: those that were not executed, too.
    fn region_pieces(&mut self, cache: &mut Inner, place: &Place, most: usize, eager: bool) -> Option<Vec<Piece>> {
        let page = cache.pages.get(place.page as usize)?;
        let source = Source { ram: Arc::clone(&page.ram), offset: page.offset, phys: 0 };
        let mut draft = std::mem::take(&mut cache.draft);
        let eager = eager && place.second == NO_PAGE;
        let mut pieces: Vec<Piece> = Vec::new();
        // The piece, counted from 1, of the instruction at each offset.
        let mut owners = [0u8; PAGE_SIZE];
        let offset_of = |linear: u64| (linear & 0xfff) as usize;
        let mut wanted = vec![place.linear];
        let mut instructions = 0;
        while let Some(linear) = wanted.pop() {
            if pieces.len() >= most || instructions > REGION_INSTRUCTIONS {
                break;
            }
            let offset = offset_of(linear);
            let number = pieces.len() as u8 + 1;
            if let Some(owner) = pieces.get_mut(usize::from(owners[offset]).wrapping_sub(1)) {
                // In the middle of a piece: control meets here.
                if let Some(rest) = owner.split(linear) {
                    rest.items.iter().for_each(|item| owners[offset_of(item.rip)] = number);
                    pieces.push(rest);
                }
                continue;
            }
            let key = Key { page: place.page, offset: offset as u16, mode: self.mode_key };
            let known = cache.by_key.get(&key).copied().filter(|index| {
                let block = cache.blocks.get(*index as usize);
                block.is_some_and(|block| block.second == place.second && cache.is_valid(block))
            });
            draft.instructions.clear();
            let index = match known {
                None if eager => self.build_in_page(cache, linear, key, &source, &mut draft),
                known => known,
            };
            let Some(block) = index.and_then(|index| cache.blocks.get(index as usize)) else { continue };
            let mut bytes = [0; LONGEST_BLOCK * LONGEST];
            let Some(bytes) = bytes.get_mut(..usize::from(block.bytes)) else { continue };
            let (head, tail) = bytes.split_at_mut(bytes.len().min(PAGE_SIZE - offset));
            source.ram.read(source.offset + offset, head);
            if let Some(second) = cache.pages.get(place.second as usize) {
                second.ram.read(second.offset, tail);
            }
            let first = block.first as usize;
            let Some(ops) = cache.ops.get(first..first + usize::from(block.ops)) else { continue };
            let stops = |rip: u64| owners[offset_of(rip)] != 0;
            let Some(piece) = jit::piece(self, place.key, linear, (bytes, &draft.instructions), ops, block.ends, stops)
            else {
                continue;
            };
            instructions += piece.items.len();
            piece.items.iter().for_each(|item| owners[offset_of(item.rip)] = number);
            if place.second != NO_PAGE {
                // An instruction that reaches into the next page stands alone.
                pieces.push(piece);
                break;
            }
            // The way that falls through is looked at first.
            for target in jit::successors(&piece).into_iter().rev().flatten() {
                if (target ^ place.linear) & !0xfff == 0 {
                    wanted.push(target);
                }
            }
            pieces.push(piece);
        }
        cache.draft = draft;
        Some(pieces)
    }
}
