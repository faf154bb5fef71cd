//! Launches that come again as they were before are done as one graph.
//!
//! A pass is hundreds of small kernels, and asking for each takes the host longer than a fast GPU needs for it. So
//! launches are only written down until somebody needs what they give; then the list is compared with earlier ones. One
//! that was seen before becomes a graph, and from then on a list that is the same, byte for byte, is one call. Nobody
//! above knows: a list differs where a kernel, a grid or an address does, so whoever wants graphs sees to it that what
//! changes from pass to pass lies in the device's memory (`rows`).

use super::driver::{Address, Driver, Event, Graph, Grid, Properties};
use crate::error::{Error, Result};
use crate::hal::{Loan, Pinner};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Launches of all graphs that are kept: passes of a few numbers of rows, and of what a growing context makes different.
/// Where panels are brought or a processor computes between, a pass is many graphs.
const NODES: usize = 8192;
/// Lists that are remembered until they come again.
const SEEN: usize = 1024;
/// Shorter lists are not worth a graph.
const SHORT: usize = 8;

/// Launches, one after another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Launches {
    /// Of each: kernel, grid, and where its arguments end.
    heads: Vec<(&'static str, Grid, usize)>,
    args: Vec<u8>,
}

impl Launches {
    fn push(&mut self, (kernel, grid, args): (&'static str, Grid, &[u8])) {
        self.args.extend_from_slice(args);
        self.heads.push((kernel, grid, self.args.len()));
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    fn get(&self, n: usize) -> Option<(&'static str, Grid, &[u8])> {
        let &(kernel, grid, end) = self.heads.get(n)?;
        let start = if n == 0 { 0 } else { self.heads[n - 1].2 };
        Some((kernel, grid, &self.args[start..end]))
    }

    /// All of them: kernel, grid, arguments.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Grid, &[u8])> {
        (0..self.len()).filter_map(|n| self.get(n))
    }

    fn begins_like(&self, other: &Launches, n: usize) -> bool {
        (0..n).all(|i| self.get(i) == other.get(i))
    }
}

/// A driver that does launches late, and those that come again at once.
#[derive(Debug)]
pub(super) struct Recorder {
    driver: Box<dyn Driver>,
    /// The one that was used last stands last.
    graphs: Vec<(Launches, Graph)>,
    /// What was asked for so far: the first so many launches of a graph, or `list`.
    like: Option<(usize, usize)>,
    list: Launches,
    /// Lists that were launched one by one, the last one last.
    seen: Vec<u64>,
    /// The device refused a graph (they take some of its memory), and is not asked again.
    refused: bool,
}

impl Recorder {
    pub fn new(driver: Box<dyn Driver>) -> Recorder {
        Recorder { driver, graphs: vec![], like: None, list: Launches::default(), seen: vec![], refused: false }
    }

    /// Does what was asked for so far.
    fn flush(&mut self) -> Result<()> {
        match self.like.take() {
            Some((g, n)) if n == self.graphs[g].0.len() => {
                let known = self.graphs.remove(g);
                let done = self.driver.replay(known.1);
                self.graphs.push(known);
                return done;
            }
            Some((g, n)) => self.write_down(g, n),
            None => {}
        }
        let list = std::mem::take(&mut self.list);
        let done = self.run(&list);
        self.list = list;
        self.list.heads.clear();
        self.list.args.clear();
        done
    }

    /// The list begins like a graph, and is another.
    fn write_down(&mut self, graph: usize, n: usize) {
        let like = &self.graphs[graph].0;
        (0..n).filter_map(|i| like.get(i)).for_each(|launch| self.list.push(launch));
    }

    fn run(&mut self, list: &Launches) -> Result<()> {
        if list.len() >= SHORT && !self.refused {
            let mut hasher = DefaultHasher::new();
            list.hash(&mut hasher);
            let hash = hasher.finish();
            if self.seen.contains(&hash) {
                let mut nodes: usize = list.len() + self.graphs.iter().map(|(known, _)| known.len()).sum::<usize>();
                while nodes > NODES && !self.graphs.is_empty() {
                    let (oldest, graph) = self.graphs.remove(0);
                    nodes -= oldest.len();
                    self.driver.forget(graph)?;
                }
                // All its kernels have run before: nothing is compiled meanwhile.
                if let Ok(graph) = self.driver.graph(list) {
                    self.graphs.push((list.clone(), graph));
                    return self.driver.replay(graph);
                }
                self.refused = true;
            }
            if self.seen.len() == SEEN {
                self.seen.remove(0);
            }
            self.seen.push(hash);
        }
        list.iter().try_for_each(|(kernel, grid, args)| self.driver.launch(kernel, grid, args))
    }

    /// The device, once it has been asked for all that was written down.
    fn driver(&mut self) -> Result<&mut dyn Driver> {
        self.flush()?;
        Ok(&mut *self.driver)
    }
}

impl Driver for Recorder {
    fn properties(&self) -> Result<Properties> {
        self.driver.properties()
    }

    fn provide(&mut self, bytes: u64) -> Result<()> {
        self.driver()?.provide(bytes)
    }

    fn alloc(&mut self, bytes: u64) -> Result<Address> {
        self.driver()?.alloc(bytes)
    }

    fn free(&mut self, at: Address) -> Result<()> {
        // What cannot be done any more must not keep the memory.
        let done = self.flush();
        self.driver.free(at).and(done)
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        self.driver()?.upload(to, bytes)
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.driver()?.download(from, bytes)
    }

    fn copy(&mut self, from: Address, to: Address, bytes: u64) -> Result<()> {
        self.driver()?.copy(from, to, bytes)
    }

    fn launch(&mut self, kernel: &'static str, grid: Grid, args: &[u8]) -> Result<()> {
        let launch = (kernel, grid, args);
        if let Some((g, n)) = self.like {
            if self.graphs[g].0.get(n) == Some(launch) {
                self.like = Some((g, n + 1));
                return Ok(());
            }
            let begins = |(known, _): &(Launches, Graph)| {
                known.get(n) == Some(launch) && known.begins_like(&self.graphs[g].0, n)
            };
            if let Some(other) = self.graphs.iter().rposition(begins) {
                self.like = Some((other, n + 1));
                return Ok(());
            }
            self.like = None;
            self.write_down(g, n);
        } else if self.list.is_empty()
            && let Some(g) = self.graphs.iter().rposition(|(known, _)| known.get(0) == Some(launch))
        {
            self.like = Some((g, 1));
            return Ok(());
        }
        self.list.push(launch);
        Ok(())
    }

    fn pinner(&self) -> Option<Arc<dyn Pinner>> {
        self.driver.pinner()
    }

    fn event(&mut self) -> Result<Event> {
        self.driver.event()
    }

    fn mark(&mut self, event: Event) -> Result<()> {
        self.driver()?.mark(event)
    }

    fn bring(&mut self, to: Address, panel: Box<dyn Loan>, free: Event, arrived: Event) -> Result<()> {
        self.driver()?.bring(to, panel, free, arrived)
    }

    fn follow(&mut self, event: Event) -> Result<()> {
        self.driver()?.follow(event)
    }

    fn stamp(&mut self) -> Result<()> {
        self.driver()?.stamp()
    }

    fn intervals(&mut self) -> Result<Vec<f64>> {
        self.driver()?.intervals()
    }

    fn graph(&mut self, _: &Launches) -> Result<Graph> {
        Err(Error::Engine("a graph of a graph".into()))
    }

    fn replay(&mut self, graph: Graph) -> Result<()> {
        self.driver()?.replay(graph)
    }

    fn forget(&mut self, graph: Graph) -> Result<()> {
        self.driver()?.forget(graph)
    }

    fn wait(&mut self) -> Result<()> {
        let done = self.flush();
        self.driver.wait().and(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, MutexGuard};

    /// What was done, and the graphs that are there.
    #[derive(Debug, Default)]
    struct Log {
        done: Vec<(&'static str, u8)>,
        graphs: Vec<Option<Launches>>,
        replays: usize,
        refuses: bool,
    }

    #[derive(Debug)]
    struct Told(Arc<Mutex<Log>>);

    fn open(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
        log.lock().expect("nobody panics with it")
    }

    const NOT_HERE: fn() -> Error = || Error::Engine("is not asked for here".into());

    impl Driver for Told {
        fn properties(&self) -> Result<Properties> {
            Err(NOT_HERE())
        }
        fn alloc(&mut self, _: u64) -> Result<Address> {
            Err(NOT_HERE())
        }
        fn free(&mut self, _: Address) -> Result<()> {
            Err(NOT_HERE())
        }
        fn upload(&mut self, _: Address, _: &[u8]) -> Result<()> {
            Ok(())
        }
        fn download(&mut self, _: Address, _: &mut [u8]) -> Result<()> {
            Ok(())
        }
        fn copy(&mut self, _: Address, _: Address, _: u64) -> Result<()> {
            Err(NOT_HERE())
        }
        fn launch(&mut self, kernel: &'static str, _: Grid, args: &[u8]) -> Result<()> {
            open(&self.0).done.push((kernel, args[0]));
            Ok(())
        }
        fn event(&mut self) -> Result<Event> {
            Err(NOT_HERE())
        }
        fn mark(&mut self, _: Event) -> Result<()> {
            Ok(())
        }
        fn bring(&mut self, _: Address, _: Box<dyn Loan>, _: Event, _: Event) -> Result<()> {
            Ok(())
        }
        fn follow(&mut self, _: Event) -> Result<()> {
            Err(NOT_HERE())
        }
        fn stamp(&mut self) -> Result<()> {
            Err(NOT_HERE())
        }
        fn intervals(&mut self) -> Result<Vec<f64>> {
            Err(NOT_HERE())
        }
        fn graph(&mut self, launches: &Launches) -> Result<Graph> {
            let mut log = open(&self.0);
            if log.refuses {
                return Err(NOT_HERE());
            }
            log.graphs.push(Some(launches.clone()));
            Ok(Graph(log.graphs.len() as u32 - 1))
        }
        fn replay(&mut self, graph: Graph) -> Result<()> {
            let mut log = open(&self.0);
            let launches = log.graphs[graph.0 as usize].clone().expect("it was not given back");
            log.done.extend(launches.iter().map(|(kernel, _, args)| (kernel, args[0])));
            log.replays += 1;
            Ok(())
        }
        fn forget(&mut self, graph: Graph) -> Result<()> {
            assert!(open(&self.0).graphs[graph.0 as usize].take().is_some());
            Ok(())
        }
        fn wait(&mut self) -> Result<()> {
            Ok(())
        }
    }

    /// Whatever lists come, in whatever turns, what is done is what was asked for.
    #[test]
    fn what_is_done_is_what_was_asked_for() {
        const KERNELS: [&str; 3] = ["a", "b", "c"];
        let grid = Grid { blocks: [1, 1, 1], threads: 32, shared: 0 };
        for refuses in [false, true] {
            let log = Arc::new(Mutex::new(Log { refuses, ..Log::default() }));
            let mut recorder = Recorder::new(Box::new(Told(log.clone())));
            let mut asked: Vec<(&str, u8)> = vec![];
            let mut random = 7u64;
            let mut below = |n: u64| {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (random >> 33) % n
            };
            for _ in 0..4000 {
                // One of thirty lists that begin alike, of seven to fourteen launches, or hundreds; some end early.
                let which = below(30);
                let len = if below(8) == 0 { below(12) } else { (7 + which % 8) * if which < 10 { 100 } else { 1 } };
                for i in 0..len {
                    let differs = i >= 3 + which % 5;
                    let launch = (KERNELS[(i % 3) as usize], if differs { which as u8 } else { 0 });
                    recorder.launch(launch.0, grid, &[launch.1, 1, 2]).unwrap();
                    asked.push(launch);
                }
                match below(3) {
                    0 => recorder.wait().unwrap(),
                    1 => recorder.upload(Address(1), &[]).unwrap(),
                    _ => recorder.mark(Event(0)).unwrap(),
                }
                assert_eq!(open(&log).done, asked);
                if asked.len() > 1000 {
                    open(&log).done.clear();
                    asked.clear();
                }
            }
            let log = open(&log);
            let kept: usize = log.graphs.iter().flatten().map(Launches::len).sum();
            assert!(kept <= NODES && refuses == log.graphs.is_empty(), "{kept} launches in graphs");
            let forgot = log.graphs.iter().any(Option::is_none);
            assert!(refuses || log.replays > 1000 && forgot, "{} replays", log.replays);
        }
    }
}
