//! Spacebar's regions: which voice endpoint a guild's members are sent to. Read from its settings,
//! be they rows of the `config` table or a JSON file, to tell whose ghosts are ours to lay.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// The `regions` section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Regions {
    default: Option<String>,
    endpoints: BTreeMap<String, String>,
}

impl Regions {
    /// From a settings file.
    pub fn from_json(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct File {
            regions: Section,
        }
        #[derive(Deserialize)]
        struct Section {
            default: Option<String>,
            #[serde(default)]
            available: Vec<Region>,
        }
        #[derive(Deserialize)]
        struct Region {
            id: String,
            endpoint: Option<String>,
        }
        let File { regions } = serde_json::from_str(text).ok()?;
        let endpoints = regions.available.into_iter();
        let endpoints = endpoints.filter_map(|region| Some((region.id, region.endpoint?)));
        Some(Self { default: regions.default, endpoints: endpoints.collect() })
    }

    /// From rows of the table: `regions_available_0_endpoint` and so on, each value JSON.
    pub(super) fn from_pairs(pairs: &[(String, String)]) -> Self {
        let text = |value: &str| match serde_json::from_str(value) {
            Ok(Value::String(text)) => Some(text),
            _ => None,
        };
        let mut default = None;
        let mut listed: BTreeMap<&str, (Option<String>, Option<String>)> = BTreeMap::new();
        for (key, value) in pairs {
            if key == "regions_default" {
                default = text(value);
            } else if let Some((index, field)) =
                key.strip_prefix("regions_available_").and_then(|rest| rest.split_once('_'))
            {
                let region = listed.entry(index).or_default();
                match field {
                    "id" => region.0 = text(value),
                    "endpoint" => region.1 = text(value),
                    _ => {}
                }
            }
        }
        let endpoints = listed.into_values().filter_map(|(id, endpoint)| Some((id?, endpoint?)));
        Self { default, endpoints: endpoints.collect() }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Where members of a guild with this region are sent: an unknown region counts as the default
    /// one.
    pub fn endpoint(&self, region: Option<&str>) -> Option<&str> {
        let known = region.and_then(|region| self.endpoints.get(region));
        let default = || self.endpoints.get(self.default.as_deref()?);
        known.or_else(default).map(String::as_str)
    }

    /// Every region and its endpoint.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.endpoints.iter().map(|(id, endpoint)| (id.as_str(), endpoint.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_settings_say_the_same() {
        let file = r#"{"regions": {"default": "a", "available": [
            {"id": "a", "name": "A", "endpoint": "one.example:443"},
            {"id": "b", "endpoint": "two.example:443"}]}}"#;
        let pairs = [
            ("regions_default", "\"a\""),
            ("regions_useDefaultAsOptimal", "true"),
            ("regions_available_0_id", "\"a\""),
            ("regions_available_0_name", "\"A\""),
            ("regions_available_0_endpoint", "\"one.example:443\""),
            ("regions_available_1_id", "\"b\""),
            ("regions_available_1_endpoint", "\"two.example:443\""),
        ];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let regions = Regions::from_pairs(&pairs);
        assert_eq!(Regions::from_json(file).unwrap(), regions);
        assert_eq!(regions.endpoint(Some("b")), Some("two.example:443"));
        assert_eq!(regions.endpoint(Some("gone")), Some("one.example:443"));
        assert_eq!(regions.endpoint(None), Some("one.example:443"));
    }

    #[test]
    fn nonsense_is_no_region() {
        assert!(Regions::from_json("[]").is_none());
        let pairs = [("regions_available_0_id".to_owned(), "7".to_owned())];
        let regions = Regions::from_pairs(&pairs);
        assert!(regions.is_empty() && regions.endpoint(None).is_none());
    }
}
