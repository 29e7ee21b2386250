//! A head of a graphics card, and who reads it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::damage::{Damage, Rectangle};
use crate::surface::Surface;
use crate::text::TextScreen;

/// The card's side of a console: it draws when it is asked to.
pub trait Screen: Send + Sync {
    /// Draws what the head shows now; resizes the picture if the mode has another size. What it does not draw stays as
    /// it was in the frame before.
    fn render(&self, picture: &mut Surface);

    /// The screen as characters, if it is in a text mode.
    fn text(&self) -> Option<TextScreen> {
        None
    }

    /// The hardware cursor, if the card has one.
    fn cursor(&self) -> Option<Cursor> {
        None
    }

    /// Where keys go that are typed while it is looked at, if it is a terminal of its own.
    fn typing(&self) -> Option<&dyn Typing> {
        None
    }

    /// Somebody wants the head to have another size; nobody looks at it when a side is 0. Returns whether the card tells
    /// its driver: most have no way to.
    fn suggest_size(&self, _width: u32, _height: u32) -> bool {
        false
    }
}

/// A key that somebody presses on a screen that is a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPress {
    /// X's symbol of what it means.
    pub symbol: u32,
    /// With Ctrl held.
    pub ctrl: bool,
    /// With Alt held.
    pub alt: bool,
}

/// A screen that keys belong to, rather than to the guest's keyboard.
pub trait Typing {
    /// A key is pressed. Called on the thread of whoever types; does not block.
    fn press(&self, key: KeyPress);
}

/// The picture of a hardware cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorShape {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// The pixel that points: column and row.
    pub hot_spot: (u32, u32),
    /// Pixels row by row: 0xAARRGGBB.
    pub pixels: Vec<u32>,
}

/// A hardware cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Its picture.
    pub shape: Arc<CursorShape>,
    /// Where its hot spot is on the screen.
    pub position: (i32, i32),
    /// Whether it is shown.
    pub is_visible: bool,
}

/// Which head of which device a console is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The device's id, if it has one.
    pub id: Option<String>,
    /// The device's path in the object tree.
    pub path: String,
    /// The head, from 0.
    pub head: u32,
}

impl Origin {
    /// Whether `name` names the device: its id or its path.
    pub fn is_named(&self, name: &str) -> bool {
        self.id.as_deref() == Some(name) || self.path == name
    }
}

struct Shown {
    picture: Arc<Surface>,
    /// The frame before, to draw the next one on, with what it lacks of `picture`.
    spare: Option<(Arc<Surface>, Damage)>,
    /// Raised with each frame that differs from the one before.
    generation: u64,
    readers: Vec<Weak<Mutex<Damage>>>,
}

impl Shown {
    /// A copy of the picture to draw on: the frame before, brought up to date, if nobody looks at it any more.
    fn canvas(&mut self) -> Surface {
        if let Some((spare, lag)) = self.spare.take()
            && let Ok(mut spare) = Arc::try_unwrap(spare)
            && (spare.width(), spare.height()) == (self.picture.width(), self.picture.height())
        {
            for area in lag.rectangles() {
                spare.copy_area(&self.picture, area);
            }
            return spare;
        }
        Surface::clone(&self.picture)
    }
}

/// A head of a graphics card.
pub struct Console {
    origin: Origin,
    screen: Arc<dyn Screen>,
    shown: Mutex<Shown>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The size of a screen before the guest has chosen a mode.
const INITIAL: (u32, u32) = (640, 480);

impl Console {
    /// A head that `screen` draws.
    pub fn new(origin: Origin, screen: Arc<dyn Screen>) -> Arc<Self> {
        let picture = Arc::new(Surface::new(INITIAL.0, INITIAL.1));
        let shown = Shown { picture, spare: None, generation: 0, readers: Vec::new() };
        Arc::new(Self { origin, screen, shown: Mutex::new(shown) })
    }

    /// Which head of which device it is.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Has the card draw the present frame, and notes for all readers what is new in it. Returns the frame's generation.
    pub fn refresh(&self) -> u64 {
        let mut shown = lock(&self.shown);
        let mut picture = shown.canvas();
        // Devices are asked with the console locked; they never ask a console for anything.
        self.screen.render(&mut picture);
        let damage = Damage::between(&shown.picture, &picture);
        let mut before = Arc::new(picture);
        if !damage.is_clean() {
            shown.generation += 1;
            std::mem::swap(&mut shown.picture, &mut before);
            shown.readers.retain(|reader| {
                let reader = reader.upgrade();
                if let Some(reader) = &reader {
                    lock(reader).add(&damage);
                }
                reader.is_some()
            });
        }
        // Who looks only now and then needs no second picture.
        shown.spare = (!shown.readers.is_empty()).then_some((before, damage));
        shown.generation
    }

    /// The present frame.
    pub fn snapshot(&self) -> Arc<Surface> {
        self.refresh();
        self.frame()
    }

    /// The frame of the latest refresh, without another one.
    pub fn frame(&self) -> Arc<Surface> {
        Arc::clone(&lock(&self.shown).picture)
    }

    /// The screen as characters, if it is in a text mode.
    pub fn text(&self) -> Option<TextScreen> {
        self.screen.text()
    }

    /// The hardware cursor.
    pub fn cursor(&self) -> Option<Cursor> {
        self.screen.cursor()
    }

    /// Where keys go, if the screen is a terminal of its own.
    pub fn typing(&self) -> Option<&dyn Typing> {
        self.screen.typing()
    }

    /// Asks the guest for another size; nobody looks at the head when a side is 0. Returns whether the guest is told; it
    /// may do as it likes.
    pub fn suggest_size(&self, width: u32, height: u32) -> bool {
        self.screen.suggest_size(width, height)
    }

    /// A new reader, for whom everything is new.
    pub fn reader(self: &Arc<Self>) -> Reader {
        let mut shown = lock(&self.shown);
        let damage = Arc::new(Mutex::new(Damage::full(shown.picture.width(), shown.picture.height())));
        shown.readers.push(Arc::downgrade(&damage));
        drop(shown);
        Reader { console: Arc::clone(self), damage }
    }
}

/// Somebody who shows a console elsewhere, with a record of what they have not seen.
pub struct Reader {
    console: Arc<Console>,
    damage: Arc<Mutex<Damage>>,
}

impl Reader {
    /// The console.
    pub fn console(&self) -> &Arc<Console> {
        &self.console
    }

    /// If the latest refresh has something new for this reader: the picture, and what is new in it, which counts as
    /// seen then.
    pub fn take(&self) -> Option<(Arc<Surface>, Vec<Rectangle>)> {
        let shown = lock(&self.console.shown);
        let mut damage = lock(&self.damage);
        if damage.is_clean() {
            return None;
        }
        let rectangles = damage.rectangles();
        *damage = Damage::clean(shown.picture.width(), shown.picture.height());
        Some((Arc::clone(&shown.picture), rectangles))
    }

    /// Whether the latest refresh has something new for this reader.
    pub fn has_news(&self) -> bool {
        !lock(&self.damage).is_clean()
    }

    /// Makes everything new again for this reader.
    pub fn invalidate(&self) {
        let shown = lock(&self.console.shown);
        *lock(&self.damage) = Damage::full(shown.picture.width(), shown.picture.height());
    }

    /// Makes a part of the screen new again for this reader.
    pub fn invalidate_area(&self, area: Rectangle) {
        lock(&self.damage).mark(area);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A screen of 64 × 32 pixels that shows a number in its first pixel.
    #[derive(Default)]
    struct Counter(AtomicU32);

    impl Screen for Counter {
        fn render(&self, picture: &mut Surface) {
            picture.resize(64, 32);
            picture.row_mut(0)[0] = self.0.load(Ordering::Relaxed);
        }
    }

    #[test]
    fn each_reader_sees_each_change_once() {
        let screen = Arc::new(Counter::default());
        let origin = Origin { id: None, path: "/machine/vga".to_owned(), head: 0 };
        let console = Console::new(origin, Arc::clone(&screen) as Arc<dyn Screen>);
        console.refresh();
        let (fast, slow) = (console.reader(), console.reader());
        let whole = Rectangle { x: 0, y: 0, width: 64, height: 32 };
        let corner = Rectangle { x: 0, y: 0, width: 32, height: 16 };
        let new = |reader: &Reader| reader.take().map(|(_, new)| new);
        assert_eq!(new(&fast), Some(vec![whole]));
        assert_eq!(new(&fast), None);
        screen.0.store(7, Ordering::Relaxed);
        console.refresh();
        let (picture, areas) = fast.take().expect("news");
        assert_eq!((picture.row(0)[0], areas), (7, vec![corner]));
        assert_eq!(new(&slow), Some(vec![whole]));
        assert_eq!(new(&slow), None);
        slow.invalidate_area(Rectangle { x: 63, y: 31, width: 5, height: 5 });
        assert_eq!(new(&slow), Some(vec![Rectangle { x: 32, y: 16, width: 32, height: 16 }]));
        slow.invalidate();
        assert_eq!(new(&slow), Some(vec![whole]));
        drop(fast);
        let generation = console.refresh();
        screen.0.store(8, Ordering::Relaxed);
        assert_eq!(console.refresh(), generation + 1);
        assert_eq!((picture.row(0)[0], console.snapshot().row(0)[0]), (7, 8), "a frame that is kept stays as it is");
        for number in 9..15 {
            screen.0.store(number, Ordering::Relaxed);
            assert_eq!(console.snapshot().row(0)[0], number);
        }
    }
}
