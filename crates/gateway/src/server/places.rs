//! Who may be connected: bounded in number, and nobody keeps others out who asks for nothing (security-tests.md W11).

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

/// The connections that are open. When there are too many, the one that has been without a request for longest makes room.
#[derive(Debug)]
pub(super) struct Places {
    at_most: usize,
    /// None makes room before it has been without a request for so long.
    grace: Duration,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    open: usize,
    next: u64,
    /// Those without a request, since when.
    idle: BTreeMap<(Instant, u64), CancellationToken>,
}

/// The place of one connection; it is free when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    all: Arc<Places>,
    number: u64,
    requests: Mutex<Requests>,
    /// Cancelled when it has to make room.
    pub(super) cut: CancellationToken,
}

/// What goes on in a connection.
#[derive(Debug)]
struct Requests {
    under_way: usize,
    /// Since when there is none.
    since: Instant,
}

/// A request under way, to the end of the answer's body.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Place>);

impl Places {
    pub(super) fn new(at_most: usize, grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            at_most: at_most.max(1),
            grace,
            state: Mutex::default(),
            freed: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place. One task waits at a time.
    pub(super) async fn take(self: &Arc<Self>) -> Arc<Place> {
        loop {
            let free = {
                let mut state = self.state();
                if state.open < self.at_most {
                    return self.place(&mut state);
                }
                // Until the next one may make room; where all have requests, until one has ended.
                match state.idle.first_key_value() {
                    Some(((since, _), _)) => *since + self.grace,
                    None => Instant::now() + self.grace,
                }
            };
            if free <= Instant::now() && self.make_room() {
                self.freed.notified().await;
            } else {
                tokio::select! {
                    () = self.freed.notified() => {}
                    () = tokio::time::sleep_until(free) => {}
                }
            }
        }
    }

    fn place(self: &Arc<Self>, state: &mut State) -> Arc<Place> {
        let (number, since, cut) = (state.next, Instant::now(), CancellationToken::new());
        state.next += 1;
        state.open += 1;
        state.idle.insert((since, number), cut.clone());
        Arc::new(Place {
            all: Arc::clone(self),
            number,
            requests: Mutex::new(Requests {
                under_way: 0,
                since,
            }),
            cut,
        })
    }

    /// Ends the connection that has been without a request for longest, if there is one for which that is long enough.
    pub(super) fn make_room(&self) -> bool {
        let mut state = self.state();
        match state.idle.first_entry() {
            Some(oldest) if oldest.key().0 + self.grace <= Instant::now() => {
                oldest.remove().cancel();
                true
            }
            _ => false,
        }
    }
}

impl Place {
    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has come; `None` where the connection has had to make room: then nothing may be done for it, because no answer would arrive.
    pub(super) fn begin(self: &Arc<Self>) -> Option<UnderWay> {
        let mut requests = self.requests();
        if requests.under_way == 0 {
            let key = (requests.since, self.number);
            self.all.state().idle.remove(&key)?;
        }
        requests.under_way += 1;
        drop(requests);
        Some(UnderWay(Arc::clone(self)))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let place = &self.0;
        let mut requests = place.requests();
        requests.under_way -= 1;
        if requests.under_way == 0 {
            requests.since = Instant::now();
            let key = (requests.since, place.number);
            place.all.state().idle.insert(key, place.cut.clone());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let since = self.requests().since;
        let mut state = self.all.state();
        state.idle.remove(&(since, self.number));
        state.open -= 1;
        drop(state);
        self.all.freed.notify_one();
    }
}

/// An answer that counts as under way until its body has ended.
pub(super) fn held(answer: Response<Body>, under_way: UnderWay) -> Response<Body> {
    answer.map(|body| {
        Body::new(Held {
            body,
            _under_way: under_way,
        })
    })
}

struct Held {
    body: Body,
    _under_way: UnderWay,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn whoever_is_without_a_request_for_longest_makes_room() {
        let places = Places::new(3, GRACE);
        let busy = places.take().await;
        let under_way = busy.begin().unwrap();
        let first = places.take().await;
        tokio::time::advance(Duration::from_millis(1)).await;
        let second = places.take().await;
        tokio::time::advance(Duration::from_millis(1)).await;
        // A request ended in the meantime: it is the youngest now.
        drop(first.begin().unwrap());
        let began = Instant::now();
        let taking = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take().await }
        });
        second.cut.cancelled().await;
        assert!(began.elapsed() >= GRACE - Duration::from_millis(2));
        assert!(!first.cut.is_cancelled() && !busy.cut.is_cancelled());
        assert!(second.begin().is_none(), "nothing is done for it any more");
        drop(second);
        let third = taking.await.unwrap();
        // Those with requests stay, however long they take.
        drop((first, third));
        tokio::time::advance(GRACE * 100).await;
        assert!(!places.make_room());
        assert!(!busy.cut.is_cancelled());
        drop(under_way);
        assert!(!places.make_room(), "it ended just now");
        tokio::time::advance(GRACE).await;
        assert!(places.make_room());
        assert!(busy.cut.is_cancelled());
        drop(busy);
        assert_eq!(places.state().open, 0);
        assert!(places.state().idle.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_have_requests_the_next_one_waits_for_an_end() {
        let places = Places::new(2, GRACE);
        let (one, two) = (places.take().await, places.take().await);
        let _one = one.begin().unwrap();
        let two_under_way = two.begin().unwrap();
        let taken = tokio::time::timeout(GRACE * 20, places.take()).await;
        assert!(taken.is_err());
        drop(two_under_way);
        drop(two);
        places.take().await;
        assert!(!one.cut.is_cancelled());
    }
}
