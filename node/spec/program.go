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
	cs := commands(exec, sh)
	if len(cs) > 0 && slices.Contains(filters, cs[len(cs)-1].name) {
		return []int{0, 1}
	}
	return []int{0}
}

// filters are programs that drop lines, and exit 1 where they drop all.
var filters = []string{"grep", "egrep", "fgrep", "zgrep", "rg"}

// blockwise returns the programs among those of a command that do not treat each line alone: of
// a large input they see one block at a time.
func blockwise(exec []string, sh string) []string {
	return named(commands(exec, sh), "sort", "uniq", "wc", "head", "tail", "tac")
}

// named returns the names among those of the commands, each once.
func named(cs []command, names ...string) []string {
	var found []string
	for _, c := range cs {
		if slices.Contains(names, c.name) && !slices.Contains(found, c.name) {
			found = append(found, c.name)
		}
	}
	return found
}

// Unbuffered returns how the first program of a command that is known to hold its output back
// until it has much of it is kept from that, as in "sed -u"; "" where it is, or where there is none.
func Unbuffered(exec []string, sh string) string {
	for _, c := range commands(exec, sh) {
		if fix := c.unbuffered(); fix != "" {
			return fix
		}
	}
	return ""
}

// command is a program and its words as the shell has them.
type command struct {
	name  string   // without directories
	words []string // all, what stands before the name too
}

// unbuffered is Unbuffered of one command (STACK 9.1; measured with GNU sed 4.9, grep 3.11, jq 1.7,
// mawk 1.3.4).
func (c command) unbuffered() string {
	has := func(parts ...string) bool {
		return slices.ContainsFunc(c.words, func(word string) bool {
			return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(word, part) })
		})
	}
	u := func(word string) bool { return strings.HasPrefix(word, "-") && strings.Contains(word, "u") }
	switch c.name {
	case "sed":
		if !slices.ContainsFunc(c.words, u) { // -u, -nu, --unbuffered
			return "sed -u"
		}
	case "grep", "egrep", "fgrep", "rg":
		if !has("--line-buffered") {
			return c.name + " --line-buffered"
		}
	case "jq":
		if !has("--unbuffered") {
			return "jq --unbuffered"
		}
	case "awk", "mawk": // fflush does not help mawk, which waits for more to read
		if !has("interactive") {
			return "mawk -Winteractive"
		}
	case "gawk":
		if !has("fflush") {
			return "gawk with fflush() after each print"
		}
	case "perl":
		if !has("$|", "autoflush") {
			return "perl with $| = 1"
		}
	case "cut", "tr":
		if !has("stdbuf") {
			return "stdbuf -oL " + c.name
		}
	}
	return ""
}

// commands returns the commands of a role in the order of the text.
func commands(exec []string, sh string) []command {
	if len(exec) == 0 {
		return shellCommands(sh)
	}
	switch path.Base(exec[0]) {
	case "sh", "bash", "dash", "zsh":
		if len(exec) > 2 && exec[1] == "-c" {
			return shellCommands(exec[2])
		}
	}
	var s shellScan
	for _, word := range exec {
		s.word.WriteString(word)
		s.endWord()
	}
	return s.commands
}

// shellCommands finds the commands in the text of a shell. It knows quotes, lists, pipes,
// redirections and comments; what stands in $(…) or `…` it passes over.
func shellCommands(text string) []command {
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
			s.before, s.named, s.target = nil, false, false
		case c == ' ' || c == '\t':
			s.endWord()
		default:
			s.word.WriteByte(c)
		}
	}
	s.endWord()
	return s.commands
}

// shellScan gathers words of a command line.
type shellScan struct {
	commands []command
	before   []string // words of the command at hand whose program is yet to come
	word     strings.Builder
	quoted   bool // the word has quotes in it
	named    bool // the command at hand is the last of commands
	target   bool // the next word is a file
}

// endWord takes the word as one of a command, and as its program if that is due.
func (s *shellScan) endWord() {
	word, quoted := s.word.String(), s.quoted
	s.word.Reset()
	s.quoted = false
	switch {
	case word == "" && !quoted:
	case s.target:
		s.target = false
	case s.named:
		last := &s.commands[len(s.commands)-1]
		last.words = append(last.words, word)
	case !quoted && passes(word):
		s.before = append(s.before, word)
	default:
		s.named = true
		s.commands = append(s.commands, command{path.Base(word), append(s.before, word)})
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
