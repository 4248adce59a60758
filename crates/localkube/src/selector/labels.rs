//! The label selector language: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.

use serde_json::{Map, Value};

use crate::status::ApiError;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

/// `labelSelector`: requirements that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<(String, Operator)>,
}

impl LabelSelector {
    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether these labels satisfy every requirement.
    pub fn matches(&self, labels: &Map<String, Value>) -> bool {
        self.requirements.iter().all(|(key, operator)| {
            let value = labels.get(key).and_then(Value::as_str);
            let has = |values: &[String]| {
                value.is_some_and(|value| values.iter().any(|known| known == value))
            };
            let number = || value.and_then(|value| value.parse::<i64>().ok());
            match operator {
                Operator::In(values) => has(values),
                Operator::NotIn(values) => !has(values),
                Operator::Exists => value.is_some(),
                Operator::Absent => value.is_none(),
                Operator::Greater(than) => number().is_some_and(|number| number > *than),
                Operator::Less(than) => number().is_some_and(|number| number < *than),
            }
        })
    }

    /// Parses the text of a `labelSelector` parameter.
    ///
    /// # Errors
    /// 400 in Kubernetes' words.
    pub fn parse(text: &str) -> Result<LabelSelector, ApiError> {
        let mut parser = Parser {
            tokens: tokens(text),
            at: 0,
        };
        let mut requirements = Vec::new();
        if parser.peek().is_empty() {
            return Ok(LabelSelector::default());
        }
        loop {
            requirements.push(parser.requirement()?);
            match parser.take().as_str() {
                "" => break,
                "," => {}
                other => {
                    return Err(ApiError::bad_request(format!(
                        "found '{other}', expected: ',' or 'end of string'"
                    )));
                }
            }
        }
        Ok(LabelSelector { requirements })
    }
}

struct Parser {
    tokens: Vec<String>,
    at: usize,
}

fn special(token: &str) -> bool {
    matches!(
        token,
        "" | "," | "(" | ")" | "!" | "=" | "==" | "!=" | "<" | ">"
    )
}

fn wrong(found: &str, expected: &str) -> ApiError {
    ApiError::bad_request(format!(
        "unable to parse requirement: found '{found}', expected: {expected}"
    ))
}

impl Parser {
    fn peek(&self) -> &str {
        self.tokens.get(self.at).map_or("", String::as_str)
    }

    fn take(&mut self) -> String {
        let token = self.peek().to_owned();
        self.at += 1;
        token
    }

    fn identifier(&mut self) -> Result<String, ApiError> {
        let token = self.take();
        if special(&token) {
            return Err(wrong(&token, "identifier"));
        }
        Ok(token)
    }

    fn requirement(&mut self) -> Result<(String, Operator), ApiError> {
        if self.peek() == "!" {
            self.take();
            return Ok((self.identifier()?, Operator::Absent));
        }
        let key = self.identifier()?;
        let operator = match self.peek() {
            "" | "," => Operator::Exists,
            "=" | "==" => {
                self.take();
                Operator::In(vec![self.value()?])
            }
            "!=" => {
                self.take();
                Operator::NotIn(vec![self.value()?])
            }
            "in" => {
                self.take();
                Operator::In(self.values()?)
            }
            "notin" => {
                self.take();
                Operator::NotIn(self.values()?)
            }
            ">" => {
                self.take();
                Operator::Greater(self.number()?)
            }
            "<" => {
                self.take();
                Operator::Less(self.number()?)
            }
            other => {
                return Err(wrong(other, "in, notin, =, ==, !=, gt, lt"));
            }
        };
        Ok((key, operator))
    }

    /// A value may be empty.
    fn value(&mut self) -> Result<String, ApiError> {
        match self.peek() {
            "" | "," => Ok(String::new()),
            _ => self.identifier(),
        }
    }

    fn number(&mut self) -> Result<i64, ApiError> {
        let token = self.identifier()?;
        token.parse().map_err(|_| wrong(&token, "an integer"))
    }

    fn values(&mut self) -> Result<Vec<String>, ApiError> {
        let open = self.take();
        if open != "(" {
            return Err(ApiError::bad_request(format!(
                "unable to parse requirement: found '{open}' expected: '('"
            )));
        }
        let mut values = Vec::new();
        loop {
            match self.peek() {
                ")" => {
                    self.take();
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    return Ok(values);
                }
                "," => {
                    self.take();
                }
                "" => return Err(wrong("", "',', ')' or identifier")),
                _ => values.push(self.identifier()?),
            }
        }
    }
}

fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let end = character.is_whitespace() || "(),!=<>".contains(character);
        if !end {
            word.push(character);
            continue;
        }
        if !word.is_empty() {
            tokens.push(std::mem::take(&mut word));
        }
        match character {
            '=' | '!' if characters.peek() == Some(&'=') => {
                characters.next();
                tokens.push(format!("{character}="));
            }
            _ if character.is_whitespace() => {}
            _ => tokens.push(character.to_string()),
        }
    }
    if !word.is_empty() {
        tokens.push(word);
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selects_as_kubernetes_does() {
        let labels = json!({"app": "web", "tier": "front", "n": "5", "empty": ""});
        let labels = labels.as_object().cloned().unwrap_or_default();
        for (text, want) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app = web , tier=front", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (web, api)", true),
            ("app notin (web, api)", false),
            ("other notin (web)", true),
            ("app", true),
            ("!app", false),
            ("!other", true),
            ("other", false),
            ("empty=", true),
            ("empty in ()", true),
            ("n>4,n<6", true),
            ("n>5", false),
            ("app=web,tier=back", false),
        ] {
            let selector = LabelSelector::parse(text).expect(text);
            assert_eq!(selector.matches(&labels), want, "{text}");
        }
    }

    #[test]
    fn refuses_in_kubernetes_words() {
        for (text, want) in [
            (
                "a===b",
                "unable to parse requirement: found '=', expected: identifier",
            ),
            (
                "a in b",
                "unable to parse requirement: found 'b' expected: '('",
            ),
        ] {
            let error = LabelSelector::parse(text).expect_err(text);
            assert_eq!((error.code, error.message.as_str()), (400, want));
        }
    }
}
