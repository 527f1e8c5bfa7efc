-- A Write of a sink, once: entries of a stream and what was seen with them.
-- KEYS: the stream, its writer, what was seen of the source.
-- ARGV: the writer before and after, how many entries to keep, how to keep what was seen, that;
-- then the ID and the body of each record.
-- Returns the writer after; it is another than asked for where nothing was done.
local last = redis.call('GET', KEYS[2]) or ''
if last ~= ARGV[1] then
  return last -- done by a try whose answer was lost, or not ours to do
end
for i = 6, #ARGV, 2 do
  local body, from, line = ARGV[i + 1], 1, 0
  while from do
    local nl = string.find(body, '\n', from, true)
    redis.call('XADD', KEYS[1], '*', 'id', ARGV[i], 'line', line, 'body', string.sub(body, from, nl and nl - 1 or -1))
    from, line = nl and nl + 1, line + 1
  end
end
if ARGV[3] ~= '0' then
  redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[3])
end
redis.call(ARGV[4] == 'replace' and 'SET' or 'APPEND', KEYS[3], ARGV[5])
redis.call('SET', KEYS[2], ARGV[2])
return ARGV[2]
