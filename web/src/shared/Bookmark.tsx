/** The sign of the house: 栞, a bookmark. Drawn, because few machines have the letter. */
export function Bookmark() {
  return (
    <svg className="bookmark" viewBox="0 0 16 28" aria-hidden="true">
      <path d="M1 0h14v28l-7-6-7 6z" />
    </svg>
  )
}
