//! The atomics and locks of the store: the standard ones.
//!
//! In tests each of their steps is also a point at which `shuttle` may let another thread go on, so that the very code
//! that ships is tried in the orders in which threads can meet. Outside of such a test a point is nothing.

#[cfg(not(test))]
pub(super) use std::sync::{
    Mutex, RwLock,
    atomic::{AtomicI64, AtomicU64, AtomicUsize},
};
#[cfg(test)]
pub(super) use stepped::{AtomicI64, AtomicU64, AtomicUsize, Mutex, RwLock, in_every_order};

#[cfg(test)]
mod stepped {
    use std::cell::Cell;
    use std::sync::atomic::{self, Ordering};
    use std::sync::{
        LockResult, MutexGuard, PoisonError, RwLockReadGuard, RwLockWriteGuard, TryLockError, TryLockResult,
    };
    use std::time::Duration;

    thread_local! {
        // Shuttle's threads all run on the thread of their test.
        static STEPPED: Cell<bool> = const { Cell::new(false) };
    }

    /// Runs `test` so many times, each time with its threads interleaved in another order.
    pub(in crate::store) fn in_every_order(times: usize, test: impl Fn() + Send + Sync + 'static) {
        let test = move || {
            STEPPED.set(true);
            test();
        };
        shuttle::check_random(test, times);
        STEPPED.set(false);
    }

    /// Another thread may go on here.
    fn point() {
        if STEPPED.get() {
            // Time is not modelled: this is a switch and nothing else.
            shuttle::thread::sleep(Duration::ZERO);
        }
    }

    /// Waits for a lock as a thread does, by letting others go on.
    fn acquire<G>(mut lock: impl FnMut() -> TryLockResult<G>, wait: impl FnOnce() -> LockResult<G>) -> LockResult<G> {
        if !STEPPED.get() {
            return wait();
        }
        point();
        loop {
            match lock() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Err(PoisonError::new(poisoned.into_inner())),
                Err(TryLockError::WouldBlock) => shuttle::thread::yield_now(),
            }
        }
    }

    #[derive(Debug, Default)]
    pub(in crate::store) struct Mutex<T>(std::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(in crate::store) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
            acquire(|| self.0.try_lock(), || self.0.lock())
        }
    }

    #[derive(Debug, Default)]
    pub(in crate::store) struct RwLock<T>(std::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(in crate::store) fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
            acquire(|| self.0.try_read(), || self.0.read())
        }

        pub(in crate::store) fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
            acquire(|| self.0.try_write(), || self.0.write())
        }
    }

    macro_rules! stepped {
        ($name:ident, $number:ty) => {
            #[derive(Debug, Default)]
            pub(in crate::store) struct $name(atomic::$name);

            #[expect(dead_code, reason = "each of the kinds has all of the steps, whichever are taken")]
            impl $name {
                pub(in crate::store) fn new(number: $number) -> Self {
                    Self(atomic::$name::new(number))
                }

                pub(in crate::store) fn get_mut(&mut self) -> &mut $number {
                    self.0.get_mut()
                }

                pub(in crate::store) fn load(&self, order: Ordering) -> $number {
                    point();
                    self.0.load(order)
                }

                pub(in crate::store) fn store(&self, number: $number, order: Ordering) {
                    point();
                    self.0.store(number, order);
                }

                pub(in crate::store) fn fetch_add(&self, number: $number, order: Ordering) -> $number {
                    point();
                    self.0.fetch_add(number, order)
                }

                pub(in crate::store) fn fetch_sub(&self, number: $number, order: Ordering) -> $number {
                    point();
                    self.0.fetch_sub(number, order)
                }

                pub(in crate::store) fn compare_exchange(
                    &self,
                    old: $number,
                    new: $number,
                    good: Ordering,
                    bad: Ordering,
                ) -> Result<$number, $number> {
                    point();
                    self.0.compare_exchange(old, new, good, bad)
                }

                pub(in crate::store) fn compare_exchange_weak(
                    &self,
                    old: $number,
                    new: $number,
                    good: Ordering,
                    bad: Ordering,
                ) -> Result<$number, $number> {
                    self.compare_exchange(old, new, good, bad)
                }

                pub(in crate::store) fn fetch_update(
                    &self,
                    good: Ordering,
                    bad: Ordering,
                    step: impl Fn($number) -> Option<$number>,
                ) -> Result<$number, $number> {
                    let mut old = self.load(bad);
                    while let Some(new) = step(old) {
                        match self.compare_exchange(old, new, good, bad) {
                            Ok(old) => return Ok(old),
                            Err(other) => old = other,
                        }
                    }
                    Err(old)
                }
            }
        };
    }

    stepped!(AtomicI64, i64);
    stepped!(AtomicU64, u64);
    stepped!(AtomicUsize, usize);
}
