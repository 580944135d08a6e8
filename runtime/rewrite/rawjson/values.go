package rawjson

// MaxValues bounds how many values a text may hold before anyone decodes it. A
// text of 16 MiB that is one long list of "{}" would be decoded into a gigabyte;
// real specs have a few thousand values and get long by their strings.
const MaxValues = 1 << 17

// Values counts the values of a JSON text, about: every comma and opening bracket outside
// of strings. It looks only at the structure; whether it is JSON at all a decoder says.
func Values(text []byte) int {
	values, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case !quoted && (c == ',' || c == '{' || c == '['):
			values++
		}
	}
	return values
}
