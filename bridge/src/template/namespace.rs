//! `namespace()`: a map that templates can assign to. The crate's own is not used because one that
//! holds itself would never be freed; here every namespace is emptied when its render ends.

use super::meter;
use minijinja::value::{Enumerator, Object, ObjectRepr};
use minijinja::{Error, ErrorKind, Value};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug, Default)]
struct Namespace {
    values: Mutex<BTreeMap<Arc<str>, Value>>,
}

thread_local! {
    static MADE: RefCell<Vec<Arc<Namespace>>> = const { RefCell::new(Vec::new()) };
}

impl Namespace {
    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<Arc<str>, Value>) -> T) -> T {
        work(&mut self.values.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Object for Namespace {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let key = key.as_str()?;
        self.with(|values| values.get(key).cloned())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.with(|values| values.keys().map(|key| Value::from(key.clone())).collect()))
    }
}

/// `namespace(map)` or `namespace(name=value, ...)`.
pub fn create(initial: Option<Value>) -> Result<Value, Error> {
    meter::keep(&Value::UNDEFINED)?;
    let made = Arc::new(Namespace::default());
    for key in initial.iter().flat_map(Value::try_iter).flatten() {
        let value = initial.as_ref().map_or(Ok(Value::UNDEFINED), |map| map.get_item(&key))?;
        made.with(|values| values.insert(key.to_string().into(), value));
    }
    MADE.with_borrow_mut(|all| all.push(made.clone()));
    Ok(Value::from_dyn_object(made))
}

/// `{% set target.name = value %}`; prints nothing.
pub fn assign(target: &Value, name: &str, value: Value) -> Result<&'static str, Error> {
    let Some(namespace) = target.downcast_object_ref::<Namespace>() else {
        let message = format!("a value of type {} cannot be assigned to; a namespace can", target.kind());
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    };
    // Dropped only after the lock is given back: it may be, or hold, this namespace.
    let _before = namespace.with(|values| values.insert(name.into(), value));
    Ok("")
}

/// Empties what this thread's render has made. Breaks every cycle.
pub struct EmptyAtEnd;

impl Drop for EmptyAtEnd {
    fn drop(&mut self) {
        for namespace in MADE.take() {
            let _values = namespace.with(std::mem::take);
        }
    }
}
