package edgeseed.edgeseedmodule.core

/** Reads JSON into Map, List, String, Double, Boolean and null; Android's own reader is not on the JVM. */
internal class Json private constructor(private val text: String) {
    private var at = 0

    companion object {
        fun parse(text: String): Any? {
            val reader = Json(text)
            val value = reader.value()
            reader.skipBlanks()
            if (reader.at != text.length) reader.fail("text after the end")
            return value
        }

        /** A JSON string in ASCII. */
        fun quote(text: String): String = buildString {
            append('"')
            for (char in text) {
                if (char in ' '..'~' && char != '"' && char != '\\') append(char)
                else append("\\u").append(char.code.toString(16).padStart(4, '0'))
            }
            append('"')
        }
    }

    private fun fail(what: String): Nothing =
        throw IllegalArgumentException("not valid JSON: $what at $at")

    private fun skipBlanks() {
        while (at < text.length && text[at] in " \t\r\n") at++
    }

    private fun expect(char: Char) {
        if (at >= text.length || text[at] != char) fail("no '$char'")
        at++
    }

    private fun value(): Any? {
        skipBlanks()
        if (at >= text.length) fail("an early end")
        return when (text[at]) {
            '{' -> members()
            '[' -> items()
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun word(word: String, value: Any?): Any? {
        if (!text.startsWith(word, at)) fail("an unknown word")
        at += word.length
        return value
    }

    private fun number(): Double {
        val start = at
        while (at < text.length && text[at] in "+-0123456789.eE") at++
        return text.substring(start, at).toDoubleOrNull() ?: fail("no value")
    }

    private fun members(): Map<String, Any?> {
        val found = LinkedHashMap<String, Any?>()
        list('{', '}') {
            skipBlanks()
            val key = string()
            skipBlanks()
            expect(':')
            found[key] = value()
        }
        return found
    }

    private fun items(): List<Any?> {
        val found = ArrayList<Any?>()
        list('[', ']') { found.add(value()) }
        return found
    }

    private fun list(open: Char, close: Char, item: () -> Unit) {
        expect(open)
        skipBlanks()
        if (at < text.length && text[at] == close) {
            at++
            return
        }
        while (true) {
            item()
            skipBlanks()
            if (at < text.length && text[at] == ',') at++
            else {
                expect(close)
                return
            }
        }
    }

    private fun string(): String {
        expect('"')
        val found = StringBuilder()
        while (true) {
            if (at >= text.length) fail("a string without an end")
            val char = text[at++]
            when {
                char == '"' -> return found.toString()
                char == '\\' -> found.append(escaped())
                else -> found.append(char)
            }
        }
    }

    private fun escaped(): Char {
        if (at >= text.length) fail("a string without an end")
        return when (val char = text[at++]) {
            'n' -> '\n'
            't' -> '\t'
            'r' -> '\r'
            'b' -> '\b'
            'f' -> '\u000c'
            'u' -> {
                if (at + 4 > text.length) fail("a string without an end")
                at += 4
                text.substring(at - 4, at).toIntOrNull(16)?.toChar() ?: fail("no character")
            }
            '"', '\\', '/' -> char
            else -> fail("an unknown escape")
        }
    }
}
