// Package config is the only reader of config.toml.
//
// It is strict: a key it does not know is an error, every error is reported at
// once, and each names its line and what to write instead. A key that is missing
// has the default that config.toml.example documents.
//
// To add a setting: a field in Config, its value in Default, a line in the
// method of reader that reads its table, and its default with a comment in
// config.toml.example. To retire one: remove those four; files that still have
// it are told so by the error for unknown keys.
//
// It reads one file and the variable FOREFEND_CONFIG; it creates nothing. All
// functions may be called from any goroutine; a *Config is not changed after it
// was returned and may be shared.
package config
