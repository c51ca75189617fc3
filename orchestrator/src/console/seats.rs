//! Who of a console's viewers writes: the first that came to write, until it leaves or another one takes over. Pure.

/// One viewer.
pub(super) type Seat = u64;

/// The viewers of one console.
#[derive(Debug, Default)]
pub(super) struct Seats {
    next: Seat,
    /// In the order in which they would write.
    all: Vec<(Seat, bool)>,
}

impl Seats {
    /// Somebody comes: only to watch, or to write when its turn comes, or at once.
    pub(super) fn join(&mut self, wants_to_write: bool, take: bool) -> Seat {
        let seat = self.next;
        self.next += 1;
        let place = if take && wants_to_write { 0 } else { self.all.len() };
        self.all.insert(place, (seat, wants_to_write));
        seat
    }

    /// Somebody goes; the next that waits to write does.
    pub(super) fn leave(&mut self, seat: Seat) {
        self.all.retain(|(other, _)| *other != seat);
    }

    /// Who writes.
    pub(super) fn writer(&self) -> Option<Seat> {
        self.all.iter().find(|(_, writes)| *writes).map(|(seat, _)| *seat)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_writes_until_it_leaves_and_then_the_next_that_wants_to() {
        let mut seats = Seats::default();
        assert_eq!(seats.writer(), None);
        let watcher = seats.join(false, false);
        assert_eq!(seats.writer(), None, "who only watches never writes");
        let first = seats.join(true, false);
        let second = seats.join(true, false);
        assert_eq!(seats.writer(), Some(first));
        seats.leave(first);
        assert_eq!(seats.writer(), Some(second));
        seats.leave(second);
        assert_eq!((seats.writer(), seats.count()), (None, 1));
        seats.leave(watcher);
        assert_eq!(seats.count(), 0);
    }

    #[test]
    fn who_takes_over_writes_at_once_and_gives_back_to_whom_it_took_from() {
        let mut seats = Seats::default();
        let first = seats.join(true, false);
        let taker = seats.join(true, true);
        assert_eq!(seats.writer(), Some(taker));
        seats.leave(taker);
        assert_eq!(seats.writer(), Some(first));
        seats.join(false, true);
        assert_eq!(seats.writer(), Some(first), "a watcher takes nothing");
    }
}
