import { describe, expect, it } from 'vitest'
import { paragraphs } from './paragraphs'

const wrapped = 'It was a long line of prose, as books on the net have them,\nwrapped by hand at seventy signs and\n'

describe('paragraphs', () => {
  it('keep their letters and their offsets in code points', () => {
    const text = `# 栞 😀\n\nFirst.\n\n\n\`\`\`py\na = 1\n\nb = 2\n\`\`\`\nLast 𝔸.\n`
    const letters = [...text]
    for (const { from, text: part } of paragraphs(text, 0)) expect(letters.slice(from, from + [...part].length).join('')).toBe(part)
    expect(paragraphs(text, 50).map(({ from }) => from - 50)).toEqual(paragraphs(text, 0).map(({ from }) => from))
  })

  it('know headings, code, running prose and lines broken on purpose', () => {
    const text = `# One\nText right below.\n\n${wrapped}\n- a\n- b\n\n\`\`\`\nx\n\ny\n\`\`\`\n\nRoses are red\nViolets are blue\n`
    expect(paragraphs(text, 0).map(({ look }) => look)).toEqual(['heading', 'flow', 'flow', 'lines', 'code', 'lines'])
  })

  it('take a chapter from the outline as a heading', () => {
    expect(paragraphs('CHAPTER I\n\nText.', 0, new Set([0]))[0]?.look).toBe('heading')
  })
})
