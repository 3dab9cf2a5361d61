//! How much of what is in etcd finds room in a daemon's memory: somebody may write there without end.

/// Kinds of records, each with a room of its own, so that one does not take another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Node,
    Network,
    Slice,
    /// A slice of no network that there is.
    Stray,
    /// What this node says itself: its registration, and its slices.
    Own,
}

impl Kind {
    /// How many there are.
    const COUNT: usize = 6;

    /// Most records of this kind, far above what clusters have; and most bytes of them, keys and values.
    const fn most(self) -> (usize, usize) {
        match self {
            Self::Counter => (1, 1 << 20),
            // Twice as many as find room in the datapath.
            Self::Node => (16_384, 32 << 20),
            Self::Network => (16_384, 16 << 20),
            Self::Slice => (100_000, 32 << 20),
            // They come before their network only where somebody restores records by hand.
            Self::Stray => (10_000, 4 << 20),
            // One of each network.
            Self::Own => (16_385, 8 << 20),
        }
    }
}

/// What is taken of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Taken {
    records: usize,
    bytes: usize,
    /// Of these, kept for what was known before and has not come yet.
    reserved: (usize, usize),
}

/// What is taken of all kinds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Room {
    taken: [Taken; Kind::COUNT],
    /// Records that found no room.
    left_out: usize,
    /// Something has gone since then.
    freed: bool,
}

impl Room {
    /// While all is read anew, what was known before has its room already.
    pub(super) fn after(before: &Self) -> Self {
        let reserve = |taken: Taken| Taken { reserved: (taken.records, taken.bytes), ..taken };
        Self { taken: before.taken.map(reserve), ..Self::default() }
    }

    /// Takes room for a record of so many bytes. `held`: the size of what it takes the place of, here or in what was known
    /// before; `is_here`: it is here already. False: there is none.
    pub(super) fn take(&mut self, kind: Kind, size: usize, held: Option<usize>, is_here: bool) -> bool {
        let taken = &mut self.taken[kind as usize];
        let (records, bytes) = kind.most();
        let more = usize::from(held.is_none());
        let after = (taken.bytes + size).saturating_sub(held.unwrap_or_default());
        // A record that does not grow always has the place of what it was.
        let grows = size > held.unwrap_or_default();
        if taken.records + more > records || grows && after > bytes {
            self.left_out += 1;
            return false;
        }
        (taken.records, taken.bytes) = (taken.records + more, after);
        if let Some(held) = held.filter(|_| !is_here) {
            let (records, bytes) = taken.reserved;
            taken.reserved = (records.saturating_sub(1), bytes.saturating_sub(held));
        }
        true
    }

    /// Gives back what a record has had.
    pub(super) fn give_back(&mut self, held: Option<(Kind, usize)>) {
        // One that had no room may have gone, too.
        self.freed = true;
        if let Some((kind, size)) = held {
            let taken = &mut self.taken[kind as usize];
            taken.records = taken.records.saturating_sub(1);
            taken.bytes = taken.bytes.saturating_sub(size);
        }
    }

    /// All has come: what was kept for the rest is free.
    pub(super) fn complete(&mut self) {
        for taken in &mut self.taken {
            let (records, bytes) = std::mem::take(&mut taken.reserved);
            taken.records = taken.records.saturating_sub(records);
            taken.bytes = taken.bytes.saturating_sub(bytes);
        }
    }

    /// How many records found no room.
    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    /// Whether something has gone since.
    pub(super) fn is_free_again(&self) -> bool {
        self.left_out > 0 && self.freed
    }
}
