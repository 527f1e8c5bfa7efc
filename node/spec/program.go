package spec

// Pure: what the text of a command says about its programs.

import (
	"path"
	"slices"
	"strings"
)

// DefaultOK returns the exit codes that ack unless a file says: 0, and 1 too where the last
// program is one that so says that it found nothing.
func DefaultOK(exec []string, sh string) []int {
	names := programs(exec, sh)
	if len(names) == 0 {
		return []int{0}
	}
	switch names[len(names)-1] {
	case "grep", "egrep", "fgrep", "zgrep", "rg":
		return []int{0, 1}
	}
	return []int{0}
}

// blockwise returns the programs among those of a command that do not treat each line alone: of
// a large input they see one block at a time.
func blockwise(exec []string, sh string) []string {
	var found []string
	for _, name := range programs(exec, sh) {
		switch name {
		case "sort", "uniq", "wc", "head", "tail", "tac":
			if !slices.Contains(found, name) {
				found = append(found, name)
			}
		}
	}
	return found
}

// programs returns the programs of a command in the order of the text, without directories.
func programs(exec []string, sh string) []string {
	if len(exec) == 0 {
		return shellPrograms(sh)
	}
	switch path.Base(exec[0]) {
	case "sh", "bash", "dash", "zsh":
		if len(exec) > 2 && exec[1] == "-c" {
			return shellPrograms(exec[2])
		}
	}
	var s shellScan
	for _, word := range exec {
		s.word.WriteString(word)
		s.endWord()
	}
	return s.names
}

// shellPrograms finds the programs in the text of a shell. It knows quotes, lists, pipes,
// redirections and comments; what stands in $(…) or `…` it passes over.
func shellPrograms(text string) []string {
	var s shellScan
	for i := 0; i < len(text); i++ {
		rest := text[i:]
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text):
			i++
			if text[i] != '\n' {
				s.word.WriteByte(text[i])
			}
		case c == '\'' || c == '"' || c == '`':
			n := quoted(rest)
			s.word.WriteString(strings.Trim(rest[:n], string(c)))
			s.quoted = true
			i += n - 1
		case strings.HasPrefix(rest, "$("):
			n := bracketed(rest)
			s.word.WriteString(rest[:n])
			i += n - 1
		case c == '#' && s.word.Len() == 0:
			if n := strings.IndexByte(rest, '\n'); n >= 0 {
				i += n - 1
			} else {
				i = len(text)
			}
		case c == '>' || c == '<':
			s.redirect()
			for i+1 < len(text) && strings.IndexByte(">&|", text[i+1]) >= 0 {
				i++
			}
		case strings.IndexByte("|&;()\n", c) >= 0:
			s.endWord()
			s.named, s.target = false, false
		case c == ' ' || c == '\t':
			s.endWord()
		default:
			s.word.WriteByte(c)
		}
	}
	s.endWord()
	return s.names
}

// shellScan gathers words of a command line.
type shellScan struct {
	names  []string
	word   strings.Builder
	quoted bool // the word has quotes in it
	named  bool // the command at hand has its program
	target bool // the next word is a file
}

// endWord takes the word as a program if one is due.
func (s *shellScan) endWord() {
	word, quoted := s.word.String(), s.quoted
	s.word.Reset()
	s.quoted = false
	switch {
	case word == "" && !quoted:
	case s.target:
		s.target = false
	case s.named:
	case !quoted && passes(word):
	default:
		s.named = true
		s.names = append(s.names, path.Base(word))
	}
}

// redirect ends the word, which a redirection may number, as in 2>file.
func (s *shellScan) redirect() {
	if strings.Trim(s.word.String(), "0123456789") == "" {
		s.word.Reset()
	}
	s.endWord()
	s.target = true
}

// passes reports whether the program is yet to come after word.
func passes(word string) bool {
	switch word {
	case "!", "{", "}", "if", "then", "else", "elif", "fi", "while", "until", "do", "done", "time",
		"exec", "command", "env", "nohup", "stdbuf":
		return true
	}
	name, _, assigned := strings.Cut(word, "=")
	return assigned && isVariable(name) || strings.HasPrefix(word, "-")
}

// quoted is the length of the quoted text that s begins with.
func quoted(s string) int {
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == s[0]:
			return i + 1
		case s[i] == '\\' && s[0] != '\'':
			i++
		}
	}
	return len(s)
}

// bracketed is the length of the $(…) that s begins with.
func bracketed(s string) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\'', '"':
			i += quoted(s[i:]) - 1
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(s)
}
