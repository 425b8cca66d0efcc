//! The heads of parts, and the parameters in them.

use super::MultipartFault;

/// The boundary that a `Content-Type` of `multipart/form-data` names, quoted or not; `None` if it is another type, or
/// names none or several, or one that RFC 2046 does not allow.
#[must_use]
pub fn boundary_of(content_type: &str) -> Option<String> {
    let (kind, rest) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let mut boundary = None;
    for parameter in Parameters(rest) {
        let (name, value) = parameter.ok()?;
        if name.eq_ignore_ascii_case("boundary") && boundary.replace(value).is_some() {
            return None;
        }
        if name.eq_ignore_ascii_case("boundary*") {
            return None;
        }
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    boundary
        .filter(|text| (1..=70).contains(&text.len()) && !text.ends_with(' ') && text.bytes().all(allowed))
        .map(str::to_owned)
}

/// Whether a part with this head is the field `model`. Refuses heads in which a backend might see another field.
pub(super) fn is_model(head: &str) -> Result<bool, MultipartFault> {
    let mut disposition = None;
    let mut is_encoded = false;
    for line in head.split("\r\n").filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or(MultipartFault::Malformed("a part's head has no colon"))?;
        if name.is_empty() || name.contains([' ', '\t']) {
            return Err(MultipartFault::Malformed("a part's head has a blank before the colon, or is folded"));
        }
        if name.eq_ignore_ascii_case("content-disposition") && disposition.replace(value).is_some() {
            return Err(MultipartFault::Malformed("a part has two dispositions"));
        }
        if name.eq_ignore_ascii_case("content-transfer-encoding") {
            let value = value.trim();
            is_encoded |= !["7bit", "8bit", "binary"].iter().any(|plain| plain.eq_ignore_ascii_case(value));
        }
    }
    let field = Field::read(disposition.ok_or(MultipartFault::Malformed("a part has no disposition"))?)?;
    if !field.name.eq_ignore_ascii_case("model") {
        return Ok(false);
    }
    if field.name != "model" || field.is_file || is_encoded {
        return Err(MultipartFault::Malformed("the `model` field is a file, encoded, or in another case"));
    }
    Ok(true)
}

struct Field<'a> {
    name: &'a str,
    is_file: bool,
}

impl<'a> Field<'a> {
    fn read(disposition: &'a str) -> Result<Self, MultipartFault> {
        let (kind, rest) = disposition.split_once(';').unwrap_or((disposition, ""));
        if !kind.trim().eq_ignore_ascii_case("form-data") {
            return Err(MultipartFault::Malformed("a part is no form-data"));
        }
        let (mut field, mut is_file) = (None, false);
        for parameter in Parameters(rest) {
            let (name, value) = parameter?;
            let is = |other| name.eq_ignore_ascii_case(other);
            if is("name*") || is("name") && (value.contains('\\') || field.replace(value).is_some()) {
                return Err(MultipartFault::Malformed("a part's name can be read in two ways"));
            }
            is_file |= is("filename") || is("filename*");
        }
        let name = field.ok_or(MultipartFault::Malformed("a part has no name"))?;
        Ok(Self { name, is_file })
    }
}

/// The parameters of a header's value, from behind its first `;`. A quoted value comes without its quotes but with its
/// backslashes: browsers mean them, RFC 7578 drops them. One before a quote would decide where the value ends, and is
/// refused.
struct Parameters<'a>(&'a str);

impl<'a> Iterator for Parameters<'a> {
    type Item = Result<(&'a str, &'a str), MultipartFault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0 = self.0.trim_start_matches([' ', '\t', ';']);
        if self.0.is_empty() {
            return None;
        }
        let parameter = self.parameter().ok_or(MultipartFault::Malformed("a parameter of a header is malformed"));
        if parameter.is_err() {
            self.0 = "";
        }
        Some(parameter)
    }
}

impl<'a> Parameters<'a> {
    fn parameter(&mut self) -> Option<(&'a str, &'a str)> {
        let is_token = |text: &str| !text.is_empty() && !text.contains([' ', '\t', '"', ';', '=', '\\', '\r', '\n']);
        let (name, rest) = self.0.split_once('=')?;
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').filter(|(value, _)| !value.ends_with('\\'))?,
            None => {
                let (value, rest) = rest.split_at(rest.find(';').unwrap_or(rest.len()));
                (Some(value.trim_end_matches([' ', '\t'])).filter(|value| is_token(value))?, rest)
            }
        };
        self.0 = rest.trim_start_matches([' ', '\t']);
        let ends = self.0.is_empty() || self.0.starts_with(';');
        (ends && is_token(name)).then_some((name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_is_read_quoted_or_not() {
        for (content_type, boundary) in [
            ("multipart/form-data; boundary=abc", "abc"),
            ("Multipart/Form-Data;charset=utf-8;BOUNDARY=\"a b?\" ; x=y", "a b?"),
            ("multipart/form-data; boundary=----WebKitFormBoundary7MA4;", "----WebKitFormBoundary7MA4"),
        ] {
            assert_eq!(boundary_of(content_type).as_deref(), Some(boundary), "{content_type}");
        }
    }

    #[test]
    fn what_names_no_single_boundary_has_none() {
        let long = format!("multipart/form-data; boundary={}", "a".repeat(71));
        for content_type in [
            "",
            "application/json; boundary=a",
            "multipart/mixed; boundary=a",
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"\"",
            "multipart/form-data; boundary=\"a \"",
            "multipart/form-data; boundary=\"a",
            "multipart/form-data; boundary=\"a\\\"b\"",
            "multipart/form-data; boundary=\"a\"b",
            "multipart/form-data; boundary=a b",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; boundary=a; Boundary=a",
            "multipart/form-data; boundary=a; boundary*=b",
            "multipart/form-data; boundary=a\n",
            "multipart/form-data; boundary=é",
            &long,
        ] {
            assert_eq!(boundary_of(content_type), None, "{content_type}");
        }
    }

    #[test]
    fn the_model_is_known_by_its_name_alone() {
        for (head, is) in [
            ("Content-Disposition: form-data; name=\"model\"\r\n\r\n", true),
            ("content-disposition:form-data;name=model\r\nContent-Type: text/plain\r\n\r\n", true),
            ("Content-Disposition: form-data; name=\"model\"\r\nContent-Transfer-Encoding: 8BIT\r\n\r\n", true),
            ("Content-Disposition: form-data; name=\"model2\"\r\n\r\n", false),
            ("Content-Disposition: form-data; name=\"file\"; filename=\"C:\\model\"\r\n\r\n", false),
            (
                "X: name=model\r\nContent-Disposition: form-data; name=\"file\"; filename=\"; name=model\"\r\n\r\n",
                false,
            ),
        ] {
            assert_eq!(is_model(head), Ok(is), "{head}");
        }
    }

    #[test]
    fn a_head_with_two_readings_is_refused() {
        for head in [
            "\r\n",
            "Content-Type: text/plain\r\n\r\n",
            "Content-Disposition: form-data\r\n\r\n",
            "Content-Disposition: attachment; name=\"model\"\r\n\r\n",
            "Content-Disposition: form-data; name=\"model\"; name=\"x\"\r\n\r\n",
            "Content-Disposition: form-data; name=\"x\"; name*=utf-8''model\r\n\r\n",
            "Content-Disposition: form-data; name=\"mode\\l\"\r\n\r\n",
            "Content-Disposition: form-data; name=\"Model\"\r\n\r\n",
            "Content-Disposition: form-data; name=\"model\"; filename=\"x\"\r\n\r\n",
            "Content-Disposition: form-data; name=\"x\"; filename=\"a\\\"; name=\"model\"\r\n\r\n",
            "Content-Disposition: form-data; name=\"x\r\n\r\n",
            "Content-Disposition: form-data; name = \"x\"\r\n\r\n",
            "Content-Disposition: form-data; name=\"x\"\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n",
            "Content-Disposition: form-data;\r\n name=\"model\"\r\n\r\n",
            "Content-Disposition : form-data; name=\"model\"\r\n\r\n",
            "Content-Disposition: form-data; name=\"model\"\r\nContent-Transfer-Encoding: base64\r\n\r\n",
            "no colon\r\n\r\n",
        ] {
            assert!(is_model(head).is_err(), "{head}");
        }
    }
}
