//! Who listens to which lite topics: what consumers said last, and which of their lite topics may have something.
//!
//! Kept in memory only. A consumer says it whenever it changes, and all of it every half minute, so that after a
//! restart everything is here again by itself. What is *ready* is looked at by the consumer's next poll: a name
//! that is new to it, of which a message was stored, or whose held message is given back or due. A hint is never
//! lost between taking it and looking: [`Taken`] puts back what was not looked at.
//!
//! **Exclusive** groups give a lite topic to the last consumer that asked; the one before is told.

mod weigh;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use millpond_proto::limits;
use millpond_proto::time::Timestamp;
use tokio::sync::Notify;

use crate::broker::lite::listeners::weigh::Change;

/// Attempts of a consumer of which is remembered what they were given.
const ATTEMPTS_KEPT: usize = 4;

/// What a consumer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It listens to these too.
    Add,
    /// It no longer listens to these.
    Remove,
    /// It listens to these and no others.
    Set,
    /// It listens to nothing.
    Clear,
}

/// A group and a consumer of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    /// Group.
    pub group: u64,
    /// The consumer's client id.
    pub consumer: String,
}

/// What a consumer listens to.
#[derive(Debug)]
struct Listener {
    /// Parent.
    topic: u64,
    names: BTreeMap<Arc<str>, Hint>,
    /// To be looked at, in this order.
    ready: VecDeque<Arc<str>>,
    /// To be looked at when it is time, ms.
    due: BTreeSet<(i64, Arc<str>)>,
    bell: Arc<Notify>,
    version: Option<i64>,
    heard: Timestamp,
    /// The last attempts, and the names that what they were given may be of; as long as they are few, others may have been
    /// given something before the consumer was heard of.
    attempts: VecDeque<(u64, Vec<Arc<str>>)>,
}

/// What is known of one name of a listener.
#[derive(Clone, Copy, Debug, Default)]
struct Hint {
    is_ready: bool,
    due_ms: Option<i64>,
}

#[derive(Debug, Default)]
struct Known {
    listeners: BTreeMap<Arc<Who>, Listener>,
    by_name: BTreeMap<u64, BTreeMap<Arc<str>, Vec<Arc<Who>>>>,
    subscriptions: usize,
    swept: Timestamp,
}

/// The listeners of a server.
#[derive(Debug, Default)]
pub struct Listeners(Mutex<Known>);

/// What came of a consumer's word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Names that it did not listen to before.
    pub new: Vec<String>,
    /// Names that were taken from other consumers of an exclusive group.
    pub taken: Vec<(String, String)>,
}

/// Which bound a consumer went over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverQuota {
    /// That of one consumer.
    Consumer,
    /// That of the server.
    Server,
}

/// Names that a poll is to look at; those that it did not are put back.
#[derive(Debug)]
pub struct Taken<'a> {
    listeners: &'a Listeners,
    who: &'a Who,
    names: Vec<Option<Arc<str>>>,
}

impl Listeners {
    /// Notes what a consumer says. What is older than what it said before is passed over.
    ///
    /// # Errors
    /// [`OverQuota`]; nothing was changed.
    pub fn hear(
        &self,
        who: &Who,
        topic: u64,
        exclusive: bool,
        said: (Action, &[String], Option<i64>),
        now: Timestamp,
    ) -> Result<Heard, OverQuota> {
        let (.., version) = said;
        let mut known = self.lock();
        let Some(Change { new, gone }) = known.weigh(who, topic, said, now)? else {
            return Ok(Heard::default());
        };
        for name in &gone {
            known.part(who, name);
        }
        let mut heard = Heard::default();
        for name in new {
            if exclusive {
                for other in known.others(who, topic, &name) {
                    known.part(&other, &name);
                    heard.taken.push((other.consumer.clone(), name.clone()));
                }
            }
            known.join(who, &name);
            heard.new.push(name);
        }
        if let Some(listener) = known.listeners.get_mut(who) {
            listener.version = version.or(listener.version);
            if !heard.new.is_empty() {
                listener.bell.notify_one();
            }
        }
        Ok(heard)
    }

    /// Whether [`Listeners::hear`] would take it now, and not pass it over as older than what was said before: for what
    /// is to be done first and only then.
    ///
    /// # Errors
    /// [`OverQuota`], as it would answer.
    pub fn would_hear(
        &self,
        who: &Who,
        topic: u64,
        said: (Action, &[String], Option<i64>),
        now: Timestamp,
    ) -> Result<bool, OverQuota> {
        Ok(self.lock().weigh(who, topic, said, now)?.is_some())
    }

    /// The bell of a consumer that polls; none when there are too many consumers.
    #[must_use]
    pub fn bell(&self, who: &Who, topic: u64, now: Timestamp) -> Option<Arc<Notify>> {
        let mut known = self.lock();
        let listener = known.listener(who, topic, now)?;
        Some(Arc::clone(&listener.bell))
    }

    /// Takes up to `most` names that may have something.
    pub fn take<'a>(&'a self, who: &'a Who, now: Timestamp, most: usize) -> Taken<'a> {
        let mut taken = Taken {
            listeners: self,
            who,
            names: Vec::new(),
        };
        let mut known = self.lock();
        let Some(listener) = known.listeners.get_mut(who) else {
            return taken;
        };
        while let Some((at, name)) = listener.due.first().cloned()
            && at <= now.as_ms()
        {
            listener.ready(&name);
        }
        while taken.names.len() < most
            && let Some(name) = listener.ready.pop_front()
        {
            if let Some(hint) = listener.names.get_mut(&name) {
                hint.is_ready = false;
                taken.names.push(Some(name));
            }
        }
        taken
    }

    /// Names of which an attempt may hold something already: those that it was given something of; for the first attempts
    /// of a consumer all that it listens to, because they may have been given something before a restart.
    #[must_use]
    pub fn maybe_held(&self, who: &Who, attempt: u64) -> Vec<Arc<str>> {
        let known = self.lock();
        let Some(listener) = known.listeners.get(who).filter(|_| attempt != 0) else {
            return Vec::new();
        };
        let mut attempts = listener.attempts.iter();
        match attempts.find(|(one, _)| *one == attempt) {
            Some((_, names)) => names.clone(),
            None if listener.attempts.len() < ATTEMPTS_KEPT => {
                listener.names.keys().map(Arc::clone).collect()
            }
            None => Vec::new(),
        }
    }

    /// Notes the names of which an attempt was given something.
    pub fn gave(&self, who: &Who, attempt: u64, names: Vec<Arc<str>>) {
        if attempt != 0
            && let Some(listener) = self.lock().listeners.get_mut(who)
        {
            listener.attempts.retain(|(one, _)| *one != attempt);
            listener.attempts.push_back((attempt, names));
            if listener.attempts.len() > ATTEMPTS_KEPT {
                listener.attempts.pop_front();
            }
        }
    }

    /// A name is to be looked at again at a time, whatever happens.
    pub fn look_at(&self, who: &Who, name: &Arc<str>, due_ms: i64) {
        if let Some(listener) = self.lock().listeners.get_mut(who) {
            listener.look_at(name, due_ms);
        }
    }

    /// When a consumer has to look again without being told, ms.
    #[must_use]
    pub fn next_due(&self, who: &Who) -> Option<i64> {
        let known = self.lock();
        let listener = known.listeners.get(who)?;
        listener.due.first().map(|(at, _)| *at)
    }

    /// Wakes another poll of a consumer that has more to look at.
    pub fn pass_on(&self, who: &Who) {
        let known = self.lock();
        if let Some(listener) = known.listeners.get(who)
            && !listener.ready.is_empty()
        {
            listener.bell.notify_one();
        }
    }

    /// There may be something in a lite topic, for one group or for all.
    pub fn arrived(&self, topic: u64, group: Option<u64>, name: &str) {
        let mut known = self.lock();
        let Known {
            listeners, by_name, ..
        } = &mut *known;
        let Some((name, all)) = by_name
            .get(&topic)
            .and_then(|names| names.get_key_value(name))
        else {
            return;
        };
        let wanted = all
            .iter()
            .filter(|who| group.is_none_or(|group| who.group == group));
        for who in wanted {
            if let Some(listener) = listeners.get_mut(who) {
                listener.ready(name);
                listener.bell.notify_one();
            }
        }
    }

    /// Forgets a consumer; others of its groups look at what it held.
    pub fn forget(&self, consumer: &str) {
        let mut known = self.lock();
        let gone = known
            .listeners
            .keys()
            .filter(|who| who.consumer == consumer);
        let gone: Vec<Arc<Who>> = gone.map(Arc::clone).collect();
        let mut left = Vec::new();
        for who in gone {
            left.extend(known.leave(&who));
        }
        drop(known);
        for (topic, group, name) in left {
            self.arrived(topic, Some(group), &name);
        }
    }

    /// Forgets whoever listened to a topic that is no more.
    pub fn forget_topic(&self, topic: u64) {
        let mut known = self.lock();
        let gone = known.listeners.iter().filter(|(_, one)| one.topic == topic);
        let gone: Vec<Arc<Who>> = gone.map(|(who, _)| Arc::clone(who)).collect();
        for who in gone {
            known.leave(&who);
        }
    }

    /// Everything may have changed: all look at all that they listen to.
    pub fn look_at_all(&self) {
        let mut known = self.lock();
        for listener in known.listeners.values_mut() {
            let names: Vec<Arc<str>> = listener.names.keys().map(Arc::clone).collect();
            names.iter().for_each(|name| listener.ready(name));
            listener.bell.notify_one();
        }
    }

    /// Groups that listen to a lite topic, each once.
    #[must_use]
    pub fn groups_of(&self, topic: u64, name: &str) -> BTreeSet<u64> {
        let known = self.lock();
        let all = known.by_name.get(&topic).and_then(|names| names.get(name));
        all.into_iter().flatten().map(|who| who.group).collect()
    }

    /// What each consumer of a group listens to.
    #[must_use]
    pub fn of_group(&self, group: u64) -> Vec<(String, Vec<String>)> {
        let known = self.lock();
        let of_group = known.listeners.iter().filter(|(who, _)| who.group == group);
        let of_group = of_group.map(|(who, listener)| {
            let names = listener.names.keys().map(|name| name.to_string());
            (who.consumer.clone(), names.collect())
        });
        of_group.collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// The name is to be looked at, if the consumer listens to it.
    fn ready(&mut self, name: &Arc<str>) {
        let Some(hint) = self.names.get_mut(name) else {
            return;
        };
        if let Some(at) = hint.due_ms.take() {
            self.due.remove(&(at, Arc::clone(name)));
        }
        if !hint.is_ready {
            hint.is_ready = true;
            self.ready.push_back(Arc::clone(name));
        }
    }

    /// The name is to be looked at when it is time; what was rung meanwhile is looked at anyway.
    fn look_at(&mut self, name: &Arc<str>, due_ms: i64) {
        let Some(hint) = self.names.get_mut(name).filter(|hint| !hint.is_ready) else {
            return;
        };
        if let Some(before) = hint.due_ms.replace(due_ms) {
            self.due.remove(&(before, Arc::clone(name)));
        }
        self.due.insert((due_ms, Arc::clone(name)));
    }

    fn forget(&mut self, name: &Arc<str>) {
        let Some(hint) = self.names.remove(name) else {
            return;
        };
        if let Some(at) = hint.due_ms {
            self.due.remove(&(at, Arc::clone(name)));
        }
        if hint.is_ready {
            self.ready.retain(|ready| ready != name);
        }
    }
}

impl Known {
    /// A consumer's entry, made when there is room for it.
    fn listener(&mut self, who: &Who, topic: u64, now: Timestamp) -> Option<&mut Listener> {
        if !self.listeners.contains_key(who) {
            if self.listeners.len() >= limits::CLIENTS_MAX {
                return None;
            }
            let listener = Listener {
                topic,
                names: BTreeMap::new(),
                ready: VecDeque::new(),
                due: BTreeSet::new(),
                bell: Arc::default(),
                version: None,
                heard: now,
                attempts: VecDeque::new(),
            };
            self.listeners.insert(Arc::new(who.clone()), listener);
        }
        let listener = self.listeners.get_mut(who)?;
        listener.heard = now;
        Some(listener)
    }

    /// Lets go of consumers that have not been heard of for long.
    fn sweep(&mut self, now: Timestamp) {
        let since = |at: Timestamp| now.as_ms().saturating_sub(at.as_ms());
        if since(self.swept) < limits::CLIENT_EXPIRY_MS {
            return;
        }
        self.swept = now;
        let silent = self.listeners.iter();
        let silent = silent.filter(|(_, one)| since(one.heard) > limits::CLIENT_EXPIRY_MS);
        let silent: Vec<Arc<Who>> = silent.map(|(who, _)| Arc::clone(who)).collect();
        for who in silent {
            self.leave(&who);
        }
    }

    fn join(&mut self, who: &Who, name: &str) {
        let Some((key, _)) = self.listeners.get_key_value(who) else {
            return;
        };
        let key = Arc::clone(key);
        let Some(listener) = self.listeners.get_mut(who) else {
            return;
        };
        let names = self.by_name.entry(listener.topic).or_default();
        // One copy of a name, however many listen to it.
        let shared = names.get_key_value(name).map(|(name, _)| Arc::clone(name));
        let name = shared.unwrap_or_else(|| name.into());
        names.entry(Arc::clone(&name)).or_default().push(key);
        listener.names.insert(Arc::clone(&name), Hint::default());
        listener.ready(&name);
        self.subscriptions += 1;
    }

    fn part(&mut self, who: &Who, name: &str) {
        let Some(listener) = self.listeners.get_mut(who) else {
            return;
        };
        let Some((name, _)) = listener.names.get_key_value(name) else {
            return;
        };
        let name = Arc::clone(name);
        listener.forget(&name);
        self.subscriptions -= 1;
        let Some(names) = self.by_name.get_mut(&listener.topic) else {
            return;
        };
        if let Some(all) = names.get_mut(&name) {
            all.retain(|one| **one != *who);
            if all.is_empty() {
                names.remove(&name);
            }
        }
        if names.is_empty() {
            self.by_name.remove(&listener.topic);
        }
    }

    /// Takes a consumer out; what it listened to.
    fn leave(&mut self, who: &Who) -> Vec<(u64, u64, Arc<str>)> {
        let Some(listener) = self.listeners.get(who) else {
            return Vec::new();
        };
        let topic = listener.topic;
        let names: Vec<Arc<str>> = listener.names.keys().map(Arc::clone).collect();
        for name in &names {
            self.part(who, name);
        }
        if let Some(listener) = self.listeners.remove(who) {
            listener.bell.notify_waiters();
        }
        let left = names.into_iter().map(|name| (topic, who.group, name));
        left.collect()
    }

    fn others(&self, who: &Who, topic: u64, name: &str) -> Vec<Who> {
        let all = self.by_name.get(&topic).and_then(|names| names.get(name));
        let others = all.into_iter().flatten();
        let others = others.filter(|other| other.group == who.group && ***other != *who);
        others.map(|other| Who::clone(other)).collect()
    }
}

impl Taken<'_> {
    /// Whether there is nothing to look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The names, by index.
    pub fn names(&self) -> impl Iterator<Item = (usize, &Arc<str>)> {
        let names = self.names.iter().enumerate();
        names.filter_map(|(index, name)| Some((index, name.as_ref()?)))
    }

    /// A name was looked at; `due_ms`: when it must be again, whatever happens.
    pub fn looked(&mut self, index: usize, due_ms: Option<i64>) -> Option<Arc<str>> {
        let name = self.names.get_mut(index)?.take()?;
        if let Some(at) = due_ms {
            self.listeners.look_at(self.who, &name, at);
        }
        Some(name)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut known = self.listeners.lock();
        let Some(listener) = known.listeners.get_mut(self.who) else {
            return;
        };
        for name in self.names.drain(..).rev().flatten() {
            if let Some(hint) = listener.names.get_mut(&name)
                && !hint.is_ready
            {
                hint.is_ready = true;
                listener.ready.push_front(name);
            }
        }
    }
}

#[cfg(test)]
mod tests;
