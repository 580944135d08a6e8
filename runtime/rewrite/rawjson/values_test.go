package rawjson

import "testing"

func TestValues(t *testing.T) {
	for text, want := range map[string]int{
		`null`: 0, `"a,b\"[{"`: 0, `[]`: 1, `{}`: 1, `[1,2,3]`: 3, `{"a":1,"b":[true,false]}`: 4,
	} {
		if got := Values([]byte(text)); got != want {
			t.Errorf("%s: %d values, want %d", text, got, want)
		}
	}
}
